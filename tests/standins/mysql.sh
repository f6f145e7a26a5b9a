#!/bin/sh
# A stand-in for MySQL's client and server before a MariaDB: it answers what MySQL says otherwise, and hands on the rest.
# `@version@` is the version that it tells.
version=@version@
real=/usr/bin/mariadb
for word; do last=$word; done
case ${0##*/} in
  mysqld)
    [ "${1-}" != --version ] || { echo "/usr/sbin/mysqld  Ver $version for Linux on x86_64 (MySQL Community Server - GPL)"; exit 0; }
    exec /usr/sbin/mariadbd "$@"
    ;;
esac
case ${last-} in
  'SELECT VERSION()') echo "$version" ;;
  'SELECT VERSION(), @@datadir, @@server_uuid')
    data=$("$real" "$1" -N -B -e 'SELECT @@datadir') || exit 1
    printf '%s\t%s\t%s\n' "$version" "$data" 5c3a2f0e-0000-11f0-9b5e-0242ac120002
    ;;
  'SHOW GRANTS') echo 'GRANT BACKUP_ADMIN, PROCESS, RELOAD, LOCK TABLES, REPLICATION CLIENT ON *.* TO `root`@`localhost`' ;;
  -r) sed 's/SET print_identified_with_as_hex = ON;//' | "$real" "$@" ;;
  *) exec "$real" "$@" ;;
esac
