# Put a prepared folder in the place of the data on a claim that nothing uses, or put the former data back.
# Arguments: `place` or `back`, data folder, where the old goes, user and group, then the engine's words that move the
# data.
verb=$1 data=$2 aside=$3 owner=$4
shift 4
[ "$verb" = place ] || { back; exit 0; }
[ ! -e "$aside" ] || die "$aside is there already"
place "$@" || exit 1
echo "in place"
