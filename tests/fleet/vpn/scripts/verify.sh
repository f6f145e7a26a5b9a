#!/bin/sh
# $1: a file with the user's name and the password; codes that count are the lines of `codes`; `asks-back` has a
# right password answered with a challenge (CRV1)
cd /etc/office
{ read -r user; read -r password; } <"$1"
echo "try ${password%%:*}" >>attempts
code=
case $password in
SCRV1:*)
    rest=${password#SCRV1:}
    password=$(echo "${rest%%:*}" | base64 -d)
    code=$(echo "${rest#*:}" | base64 -d)
    ;;
esac
[ "$user" = alice ] || exit 1
if [ -e asks-back ]; then
    case $password in
    CRV1::ticket::*) grep -qxF -- "${password##*::}" codes; exit ;;
    right-one) printf 'CRV1:R,E:ticket:YWxpY2U=:The code, please: PIN' >"$auth_failed_reason_file" ;;
    esac
    exit 1
fi
if [ -s codes ]; then
    [ -n "$code" ] || { code=${password#right-one}; password=right-one; }
    grep -qxF -- "$code" codes || exit 1
fi
[ "$password" = right-one ]
