# See that apt knows packages of a vendor. Arguments: name of the vendor's repository, packages.
set -u
repository=$1
shift
known() {
  for package in "$@"; do apt-cache show "$package" >/dev/null 2>&1 || return 1; done
}
known "$@" && exit 0
command -v percona-release >/dev/null || exit 1
percona-release enable "$repository" release && apt-get -q update || exit 1
known "$@"
