// One job live: lanes, lines in a window of fixed size, resumed where the link broke.
import { badges, link } from "./console.js";

const MAX = 5000;
const FRAME = 250; // rows drawn per frame, so that a flood of lines never freezes the page
const box = document.getElementById("log");
const view = document.getElementById("lines");
const words = JSON.parse(box.dataset.words);
const number = box.dataset.job;
const follow = document.getElementById("follow");
const format = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: box.dataset.zone });
const several = Boolean(box.querySelector("[data-lane]"));

let lane = new URLSearchParams(location.search).get("lane") || "";
let last = Math.max(0, Number(box.dataset.last) - MAX);
let pending = [];
let frame = 0;
let following = true;
let source = null;
let over = false;
let clock = [0, ""];

function time(ms) {
  const second = Math.floor(ms / 1000);
  if (clock[0] !== second) clock = [second, format.format(ms)];
  return clock[1];
}

/* Everything a host sent becomes text, never markup. */
function row([id, ms, host, stream, text]) {
  const line = document.createElement("div");
  line.className = stream;
  line.dataset.line = id;
  const at = document.createElement("time");
  at.textContent = time(ms);
  line.append(at);
  if (several) {
    const who = document.createElement("b");
    who.textContent = host;
    line.append(who);
  }
  const words = document.createElement("span");
  words.textContent = text;
  line.append(words);
  return line;
}

function gap(count) {
  const line = document.createElement("div");
  line.className = "gap";
  line.textContent = words.gap.replace("%s", count.toLocaleString());
  return line;
}

function flush() {
  frame = 0;
  if (!pending.length) return;
  const batch = pending.splice(0, FRAME);
  const part = document.createDocumentFragment();
  for (const item of batch) part.append(item instanceof Node ? item : row(item));
  view.append(part);
  const extra = view.childElementCount - MAX;
  if (extra > 0) {
    const range = document.createRange();
    range.setStartBefore(view.firstElementChild);
    range.setEndAfter(view.children[extra - 1]);
    range.deleteContents();
  }
  if (following) view.scrollTop = view.scrollHeight;
  if (pending.length) frame = requestAnimationFrame(flush);
}

function add(items) {
  for (const item of items) pending.push(item);
  if (pending.length > MAX) pending = pending.slice(-MAX);
  frame ||= requestAnimationFrame(flush);
}

function setFollowing(on) {
  following = on;
  follow.setAttribute("aria-pressed", String(on));
  if (on) view.scrollTop = view.scrollHeight;
}

function refresh() {
  for (const id of ["head", "after"]) window.htmx.trigger(document.getElementById(id), "refresh");
}

async function heading() {
  const answer = await fetch(`/jobs/${number}?part=heading`, { headers: { "HX-Request": "true" } });
  if (!answer.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("title").replaceChildren(...document.adoptNode(fresh.body).childNodes);
}

function connect() {
  source?.close();
  const query = new URLSearchParams({ after: last });
  if (lane) query.set("host", lane);
  source = new EventSource(`/jobs/${number}/stream?${query}`);
  source.addEventListener("open", () => link(true));
  source.addEventListener("error", () => {
    if (over) return;
    link(false);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  });
  source.addEventListener("lines", (event) => {
    const lines = JSON.parse(event.data);
    last = lines[lines.length - 1][0];
    add(lines);
  });
  source.addEventListener("gap", (event) => add([gap(JSON.parse(event.data))]));
  source.addEventListener("steps", (event) => {
    for (const step of JSON.parse(event.data)) {
      const button = box.querySelector(`[data-lane="${CSS.escape(step.host)}"]`);
      if (!button) continue;
      const dot = button.querySelector(".dot");
      dot.className = `dot bare-dot ${step.dot}`;
      dot.querySelector(".word").textContent = step.word;
      button.querySelector(".note").textContent = step.note;
      button.title = step.error;
    }
    later();
  });
  source.addEventListener("done", () => {
    over = true;
    source.close();
    link(true);
    refresh();
    heading();
    badges();
  });
}

let waiting = 0;
function later() {
  waiting ||= setTimeout(() => {
    waiting = 0;
    window.htmx.trigger(document.getElementById("head"), "refresh");
  }, 1000);
}

function choose(host) {
  lane = host;
  last = host ? 0 : Math.max(0, Number(box.dataset.last) - MAX);
  for (const button of box.querySelectorAll("[data-lane]")) button.setAttribute("aria-pressed", String(button.dataset.lane === lane));
  const address = new URL(location.href);
  if (lane) address.searchParams.set("lane", lane);
  else address.searchParams.delete("lane");
  history.replaceState(null, "", address);
  pending = [];
  view.replaceChildren();
  setFollowing(true);
  connect();
}

box.addEventListener("click", (event) => {
  const button = event.target.closest("[data-lane]");
  if (button) choose(button.dataset.lane);
});
follow.addEventListener("click", () => setFollowing(!following));
view.addEventListener("wheel", (event) => {
  if (event.deltaY < 0) setFollowing(false);
}, { passive: true });
view.addEventListener("keydown", (event) => {
  if (["ArrowUp", "PageUp", "Home"].includes(event.key)) setFollowing(false);
  if (event.key === "End") setFollowing(true);
});
document.getElementById("first-error").addEventListener("click", async () => {
  setFollowing(false);
  const answer = await fetch(`/jobs/${number}/first-error`);
  const { line } = await answer.json();
  if (!line) {
    document.getElementById("notice").textContent = words.none;
    return;
  }
  let target = view.querySelector(`[data-line="${line}"]`);
  if (!target) {
    last = Math.max(0, line - 20);
    lane = "";
    pending = [];
    view.replaceChildren();
    const page = await fetch(`/jobs/${number}/lines?after=${last}`);
    source?.close();
    add(await page.json());
    while (pending.length) flush();
    target = view.querySelector(`[data-line="${line}"]`);
  }
  view.querySelector(".found")?.classList.remove("found");
  target?.classList.add("found");
  target?.scrollIntoView({ block: "center" });
});

choose(lane);
