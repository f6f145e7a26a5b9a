#!/bin/sh
# A strict stand-in for Percona XtraBackup's `xtrabackup`: it knows the options that its version documents, refuses any
# other as the real one does (255), keeps its rules of preparing, and does the work through mariadb-backup.
# `@version@` is put in when it is installed: 8.0.35-36, 8.4.0-7, 9.7.2-2.
set -u
version=@version@
line=${version%-*} line=${line%.*}

refuse() {
  echo "[ERROR] [MY-011825] [Xtrabackup] $*" >&2
  exit 255
}
fail() {
  echo "[ERROR] [MY-011825] [Xtrabackup] $*" >&2
  exit 1
}

# The option reference of 8.0; those of later lines that differ are named below.
flags='apply-log-only backup backup-locks check-privileges close-files compress copy-back core-file decompress
dump-innodb-buffer-pool export force-non-empty-directories galera-info generate-new-master-key generate-transition-key
get-server-public-key help incremental-force-scan move-back no-backup-locks no-lock no-server-version-check
no-version-check prepare print-param rebuild-indexes register-redo-log-consumer remove-original rollback-prepared-trx
rsync safe-slave-backup slave-info stats strict tables-compatibility-check skip-tables-compatibility-check version'
values='backup-lock-timeout backup-lock-retry-count compress compress-chunk-size compress-threads compress-zstd-level
databases databases-exclude databases-file datadir decompress-threads decrypt defaults-group
dump-innodb-buffer-pool-timeout dump-innodb-buffer-pool-pct encrypt encrypt-key encrypt-key-file encrypt-threads
encrypt-chunk-size estimate-memory extra-lsndir ftwrl-wait-timeout ftwrl-wait-threshold ftwrl-wait-query-type history
host incremental-basedir incremental-dir incremental-history-name incremental-history-uuid incremental-lsn
keyring-file-data kill-long-queries-timeout kill-long-query-type lock-ddl-timeout log-copy-interval login-path
open-files-limit parallel password plugin-load port read-buffer-size rebuild-threads server-id server-public-key-path
socket ssl-ca ssl-cert ssl-key ssl-mode stream tables tables-exclude tables-file target-dir throttle tmpdir
transition-key use-free-memory-pct use-memory user xtrabackup-plugin-dir'
case $line in
  8.0) flags="$flags lock-ddl lock-ddl-per-table" ;;
  8.4) flags="$flags page-tracking check-tables" values="$values lock-ddl" ;;
  9.7)
    flags="$flags page-tracking check-tables apply-redo-only"
    values="$values lock-ddl backup-incremental-base prepare-incremental-from-dir"
    ;;
esac
has() {
  for each in $1; do [ "$each" = "$2" ] && return 0; done
  return 1
}

mode= login= target= base= delta= stream= lsn= data= memory= parallel=1 redo= check= compress= remove= old= new= first=y
for word; do
  name=${word%%=*} name=${name#--} value=
  case $word in --*=*) value=${word#*=} kind=$values ;; --*) kind=$flags ;; *) refuse "unknown argument: '$word'" ;; esac
  if [ "$name" = defaults-extra-file ] || [ "$name" = defaults-file ]; then
    [ "$first" = y ] || refuse "--$name must be given as the first option"
    login=$word
  else
    has "$kind" "$name" || refuse "unknown option '$word'"
  fi
  first=
  case $name in
    version) echo "xtrabackup version $version based on MySQL server ${version%-*} Linux (x86_64) (revision id: 0)"; exit 0 ;;
    backup | prepare | copy-back | move-back | decompress)
      [ -z "$mode" ] || refuse "only one of --backup, --prepare, --copy-back, --move-back, --decompress"
      mode=$name ;;
    target-dir) target=$value ;;
    stream) [ "$value" = xbstream ] || refuse "--stream takes xbstream only"; stream=$value ;;
    incremental-basedir) base=$value old=y ;;
    backup-incremental-base) base=$value new=y ;;
    incremental-dir) delta=$value old=y ;;
    prepare-incremental-from-dir) delta=$value new=y ;;
    apply-log-only) redo=y old=y ;;
    apply-redo-only) redo=y new=y ;;
    extra-lsndir) lsn=$value ;;
    datadir) data=$value ;;
    use-memory) memory=$value ;;
    parallel) parallel=$value ;;
    check-tables) check=y ;;
    compress) compress=${value:-zstd} ;;
    remove-original) remove=y ;;
    lock-ddl) [ "$line" = 8.0 ] || has 'ON OFF REDUCED' "$value" || refuse "wrong value of --lock-ddl" ;;
  esac
done
[ -n "$mode" ] || refuse "no mode is given"
[ -n "$target" ] || refuse "--target-dir is missing"
if [ "$line" = 9.7 ] && [ -n "$old" ]; then
  [ -z "$new" ] || refuse "an old name and its new one in one command"
  echo "[Warning] an option is deprecated and will be removed in a future release" >&2
fi

case $mode in
  backup)
    [ -z "$delta$redo$check" ] || refuse "an option of --prepare with --backup"
    server=$(mysql ${login:+"$login"} -N -B -e 'SELECT VERSION()') || fail "cannot connect"
    case $server in "$line".*) ;; *) fail "unsupported server version $server: this is $version" ;; esac
    set -- --backup --target-dir="$target" --parallel="$parallel"
    [ -z "$login" ] || set -- "$login" "$@"
    [ -z "$lsn" ] || set -- "$@" --extra-lsndir="$lsn"
    [ -z "$stream" ] || set -- "$@" --stream=xbstream
    [ -z "$base" ] || { [ -d "$base" ] || fail "no folder $base"; set -- "$@" --incremental-basedir="$base"; }
    mariadb-backup "$@" || exit 1
    [ -n "$stream" ] || sed -i "s/^server_version = .*/server_version = $server/; s/^tool_version = .*/tool_version = $version/" \
      "$target/xtrabackup_info" || exit 1
    if [ -n "$compress" ]; then
      [ "$compress" = zstd ] || fail "the stand-in has zstd only"
      [ -z "$stream" ] || fail "the stand-in does not compress a stream"
      find "$target" -type f ! -name xtrabackup_checkpoints ! -name xtrabackup_binlog_info ! -name '*.zst' \
        -exec zstd -q --rm {} + || exit 1
    fi
    ;;
  prepare)
    [ -z "$base$stream$compress" ] || refuse "an option of --backup with --prepare"
    state=$(cat "$target.state" 2>/dev/null)
    [ -z "$delta" ] || [ -n "$state" ] || fail "the base was not prepared"
    [ "$state" != full-prepared ] || [ -z "$delta$redo" ] || fail "this target is prepared already: nothing can be added"
    set -- --prepare --target-dir="$target" ${memory:+--use-memory="$memory"}
    [ -z "$delta" ] || set -- "$@" --incremental-dir="$delta"
    mariadb-backup "$@" || exit 1
    if [ -n "$redo" ]; then echo log-applied >"$target.state"; else echo full-prepared >"$target.state"; fi
    if [ -n "$check" ]; then
      find "$target" -name '*.ibd' -exec innochecksum {} + >&2 || fail "an index is damaged"
    fi
    ;;
  copy-back | move-back)
    [ "$(cat "$target.state" 2>/dev/null)" = full-prepared ] || fail "the target is not fully prepared"
    mariadb-backup "--$mode" --target-dir="$target" ${data:+--datadir="$data"} || exit 1
    ;;
  decompress)
    find "$target" -name '*.zst' -exec zstd -dq ${remove:+--rm} {} + || exit 1
    ;;
esac
echo "[Note] [MY-011825] [Xtrabackup] completed OK!" >&2
