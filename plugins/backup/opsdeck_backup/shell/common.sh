# What every part begins with. Given: $1 the name of this run, $2 rclone's path. Standard input has three lines of
# base64: rclone's configuration, the options file of the database's login, the age identity ("" where not needed).
# Secrets lie in a memory file system, for root only, and go with the run; those of a run that was killed, at the next.
set -u
umask 077
LC_ALL=C
export LC_ALL
mkdir -p /run/opsdeck-backup || exit 1
for left in /run/opsdeck-backup/*; do
  [ -d "$left" ] || continue
  pid=
  { read -r pid <"$left/pid"; } 2>/dev/null
  [ -n "$pid" ] && [ -d "/proc/$pid" ] || rm -rf "$left"
done
name=$1
rclone=$2
shift 2
run=/run/opsdeck-backup/$name.$$
mkdir "$run" && echo "$$" >"$run/pid" || exit 1
trap 'rm -rf "$run"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
for secret in rclone.conf my.cnf identity; do
  IFS= read -r line || line=
  printf '%s' "$line" | base64 -d >"$run/$secret" || exit 1
done
line=

die() {
  echo "$*" >&2
  exit 1
}

# The retries of rclone and of its S3 library multiply: 64 of them, up to 20 s apart, bear a link that is gone for five
# minutes, also where the kernel says at once that there is no route.
store() {
  "$rclone" --config "$run/rclone.conf" --retries 1 --low-level-retries 8 --contimeout 30s --timeout 2m \
    --log-level ERROR "$@"
}

# Run the first $1 of the words that follow, with the run's folder put in for @run@.
first() {
  keep=$1
  shift
  all=$#
  at=0
  while [ "$at" -lt "$all" ]; do
    word=$1
    shift
    case $word in *@run@*) word=${word%%@run@*}$run${word#*@run@} ;; esac
    [ "$at" -lt "$keep" ] && set -- "$@" "$word"
    at=$((at + 1))
  done
  "$@"
}

# Look at the exit statuses that the parts of a pipe left; name each part that did not end with 0.
parts() {
  bad=
  for part in "$@"; do
    status=
    { read -r status <"$run/rc.$part"; } 2>/dev/null
    [ "$status" = 0 ] || bad="$bad $part (${status:-killed})"
  done
  [ -z "$bad" ] || return 1
}

# Take the sha256 of standard input. rclone has it in machine code, which sha256sum of Debian 12 has not.
digest() {
  store hashsum sha256
}
