#!/bin/sh
# packages.sh DIRECTORY ARCHITECTURE PACKAGE...: Debian packages of any architecture, unpacked into the one tree
# DIRECTORY/ARCHITECTURE: what the test images are made of. Nothing is installed, nothing of it is ever run but a
# native busybox. A package may be written `new|old`: the first one that the suite has is taken; `name?` may be
# missing. Environment: APT_LINE = the one-line apt source to take them from. Needs apt, dpkg, tar, ldconfig.
set -eu

tree=${1:?usage: packages.sh DIRECTORY ARCHITECTURE PACKAGE...}/${2:?usage: packages.sh DIRECTORY ARCHITECTURE PACKAGE...}
architecture=$2
shift 2
: "${APT_LINE:?set APT_LINE to a one-line apt source, e.g. deb MIRROR bookworm main}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# An apt of its own: the system's apt learns nothing of other architectures.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
: >"$work/status"
echo "$APT_LINE" >"$work/sources.list"
cat >"$work/apt.conf" <<EOF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Default-Release "";
APT::Sandbox::User "root";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
Dir::State::status "$work/status";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
EOF
export APT_CONFIG="$work/apt.conf"
apt-get -qq update

wanted=
for choice in "$@"; do
  found=
  for name in $(echo "${choice%\?}" | tr '|' ' '); do
    if [ -z "$found" ] && apt-cache show --no-all-versions "$name" >/dev/null 2>&1; then found=$name; fi
  done
  case $found,$choice in
    ,*\?) ;;
    ,*) echo "packages.sh: no $choice for $architecture" >&2; exit 1 ;;
    *) wanted="$wanted $found" ;;
  esac
done
# shellcheck disable=SC2086 # a list of names
(cd "$work" && apt-get -qq download $wanted)

rm -rf "$tree"
for directory in bin sbin lib lib64; do
  mkdir -p "$tree/usr/$directory"
  ln -s "usr/$directory" "$tree/$directory"
done
for package in "$work"/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$tree" --keep-directory-symlink \
    --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
done
# The list of libraries that the tree's own loader would have; it holds those of this machine's architecture only.
mkdir -p "$tree/etc"
if [ "$architecture" = "$(dpkg --print-architecture)" ]; then
  echo "/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)" >"$tree/etc/ld.so.conf"
  ldconfig -r "$tree" 2>/dev/null || true
fi
du -sh "$tree"
