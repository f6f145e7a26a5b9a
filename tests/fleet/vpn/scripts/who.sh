#!/bin/sh
read -r line
printf 'HTTP/1.0 200 OK\r\n\r\n%s' "$SOCAT_PEERADDR"
