// What every page needs: keys, palette, bottom sheet, the zone, the link's state.
const words = JSON.parse(document.body.dataset.words || "{}");
const $ = (selector) => document.querySelector(selector);

/* The reader's zone, so that the server writes times in it from the next page on. */
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
if (zone && !document.cookie.split("; ").includes(`zone=${encodeURIComponent(zone)}`)) {
  document.cookie = `zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
}

/* Relative times grow older while the page stands. */
const relative = new Intl.RelativeTimeFormat(document.documentElement.lang || "en", { numeric: "always", style: "short" });
function age(element) {
  const seconds = (Date.parse(element.dateTime) - Date.now()) / 1000;
  const size = Math.abs(seconds);
  if (size < 60) return;
  const [length, unit] = size < 3600 ? [60, "minute"] : size < 86400 ? [3600, "hour"] : [86400, "day"];
  element.textContent = relative.format(Math.round(seconds / length), unit);
}
setInterval(() => document.querySelectorAll("time[data-ago]").forEach(age), 30000);

/* The link: one banner for every stream on the page, gone when it heals. */
export function link(up) {
  const banner = $("#lost");
  if (!banner) return;
  banner.textContent = up ? "" : words.lost;
  banner.hidden = up;
}

/* The counts in the side bar follow what happens. */
export async function badges() {
  const answer = await fetch("/badges", { headers: { Accept: "application/json" } });
  if (!answer.ok || answer.redirected) return;
  const counts = await answer.json();
  for (const badge of document.querySelectorAll("[data-badge]")) badge.textContent = counts[badge.dataset.badge] ?? "";
}
document.body.addEventListener("htmx:sseMessage", (event) => {
  if (["jobs", "hosts", "incidents"].includes(event.detail.type)) badges();
});

let lost = false;
document.body.addEventListener("htmx:sseError", () => {
  lost = true;
  link(false);
});
document.body.addEventListener("htmx:sseOpen", () => {
  link(true);
  if (lost) document.querySelectorAll("[data-heal]").forEach((part) => window.htmx.trigger(part, "heal"));
  lost = false;
});
document.body.addEventListener("htmx:sendError", () => link(false));
document.body.addEventListener("htmx:afterOnLoad", () => {
  if (!lost) link(true);
});

/* The bottom sheet on narrow screens. */
$("[data-sheet]")?.addEventListener("click", (event) => {
  const open = $("#side").toggleAttribute("data-open");
  event.currentTarget.setAttribute("aria-expanded", String(open));
});

/* A menu closes when something else is pressed. */
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

/* Copying what is shown once. */
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText($(button.dataset.copy).textContent);
  button.textContent = words.copied;
});

/* The palette. */
const palette = $("#palette");
const field = palette?.querySelector("input");
const list = palette?.querySelector("ul");
let entries = null;
let chosen = 0;
let shown = [];

function score(entry, wanted) {
  if (!wanted) return 0;
  const title = entry.title.toLowerCase();
  if (title.startsWith(wanted)) return 0;
  if (title.includes(wanted)) return 1;
  const whole = `${title} ${(entry.more || "").toLowerCase()} ${entry.path}`;
  return wanted.split(/\s+/).every((part) => whole.includes(part)) ? 2 : -1;
}

function entryRow(entry, place) {
  const row = document.createElement("li");
  row.setAttribute("role", "option");
  row.id = `palette-${place}`;
  row.setAttribute("aria-selected", String(place === chosen));
  row.append(entry.title);
  const kind = document.createElement("small");
  kind.textContent = entry.kind;
  row.append(kind);
  row.addEventListener("click", () => {
    window.location.href = entry.path;
  });
  return row;
}

function draw() {
  const wanted = field.value.trim().toLowerCase();
  shown = (entries || [])
    .map((entry) => [score(entry, wanted), entry])
    .filter(([rank]) => rank >= 0)
    .sort((one, other) => one[0] - other[0])
    .slice(0, 40)
    .map(([, entry]) => entry);
  chosen = Math.min(chosen, Math.max(shown.length - 1, 0));
  list.replaceChildren(...shown.map(entryRow));
  if (!shown.length && entries) {
    const row = document.createElement("li");
    row.textContent = words.none;
    list.append(row);
  }
  field.setAttribute("aria-activedescendant", shown.length ? `palette-${chosen}` : "");
  list.children[chosen]?.scrollIntoView({ block: "nearest" });
}

async function openPalette() {
  if (!palette || palette.open) return;
  palette.showModal();
  field.value = "";
  chosen = 0;
  draw();
  const answer = await fetch("/palette", { headers: { Accept: "application/json" } });
  if (answer.ok && !answer.redirected) {
    entries = await answer.json();
    draw();
  }
}
field?.addEventListener("input", () => {
  chosen = 0;
  draw();
});
field?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    chosen = Math.max(0, Math.min(shown.length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
    draw();
  } else if (event.key === "Enter" && shown[chosen]) {
    event.preventDefault();
    window.location.href = shown[chosen].path;
  }
});
$("[data-palette]")?.addEventListener("click", openPalette);
$("[data-keys]")?.addEventListener("click", () => $("#key-list").showModal());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/* Keys: `g` then a letter goes to a page, `/` filters, `j` and `k` walk the rows. */
let going = 0;
function walk(step) {
  const rows = [...document.querySelectorAll("[data-row]")].map((row) => row.querySelector("a[href], button")).filter(Boolean);
  if (!rows.length) return;
  const here = rows.findIndex((target) => target.closest("[data-row]").contains(document.activeElement));
  rows[Math.max(0, Math.min(rows.length - 1, here + step))].focus();
}
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    openPalette();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") {
      event.preventDefault(); // a search field would also empty itself, and the filter with it
      event.target.blur();
    }
    return;
  }
  if (going && Date.now() - going < 1500) {
    going = 0;
    const target = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
    if (target) {
      event.preventDefault();
      window.location.href = target.href;
    }
    return;
  }
  const inRow = Boolean(document.activeElement?.closest("[data-row]"));
  if (event.key === "g") going = Date.now();
  else if (event.key === "?") $("#key-list")?.showModal();
  else if (event.key === "/" && $("[data-filter]")) {
    event.preventDefault();
    $("[data-filter]").focus();
    $("[data-filter]").select();
  } else if (event.key === "j" || (event.key === "ArrowDown" && inRow)) {
    event.preventDefault();
    walk(1);
  } else if (event.key === "k" || (event.key === "ArrowUp" && inRow)) {
    event.preventDefault();
    walk(-1);
  }
});
