#!/bin/sh
# busybox.sh DIRECTORY ARCHITECTURE...: a static busybox of each Debian architecture, as
# DIRECTORY/ARCHITECTURE/busybox. What the test images are made of; foreign ones are never run.
# Environment: APT_LINE = the one-line apt source to take them from. Needs apt and dpkg.
set -eu

directory=${1:?usage: busybox.sh DIRECTORY ARCHITECTURE...}
shift
: "${APT_LINE:?set APT_LINE to a one-line apt source, e.g. deb MIRROR bookworm main}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

for architecture in "$@"; do
  # An apt of its own for each architecture: the system's apt learns of none of them.
  private=$work/$architecture
  mkdir -p "$private/lists/partial" "$private/cache/archives/partial" "$private/unpacked"
  : >"$private/status"
  echo "$APT_LINE" >"$private/sources.list"
  private_apt() {
    apt-get -qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
      -o Dir::Etc::SourceList="$private/sources.list" -o Dir::Etc::SourceParts=/dev/null \
      -o Dir::State::Lists="$private/lists" -o Dir::Cache="$private/cache" \
      -o Dir::State::status="$private/status" -o APT::Sandbox::User=root \
      -o Acquire::Languages=none -o Acquire::Retries=2 \
      -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false "$@"
  }
  private_apt update
  (cd "$private" && private_apt download busybox-static)
  dpkg -x "$private"/busybox-static_*.deb "$private/unpacked"
  for program in "$private"/unpacked/bin/busybox "$private"/unpacked/usr/bin/busybox; do
    [ ! -f "$program" ] || install -D -m 755 "$program" "$directory/$architecture/busybox"
  done
  [ -x "$directory/$architecture/busybox" ]
done
