#!/bin/sh
# apptainer.sh PREFIX: a real Apptainer, from Debian's unstable suite, that runs on Debian 12 and later from PREFIX.
#
# Neither Debian 12 nor 13 packages Apptainer, and the unstable one needs a newer C library. So it is unpacked (not
# installed) under PREFIX together with the libraries it needs, and told by patchelf to use those and no others.
# PREFIX cannot be moved afterwards. Environment: APT_LINE = the one-line apt source to take it from.
# Needs apt, dpkg, patchelf, and at run time squashfs-tools.
set -eu

prefix=${1:?usage: apptainer.sh PREFIX}
: "${APT_LINE:?set APT_LINE to a one-line apt source, e.g. deb MIRROR sid main}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# An apt of its own, so that no list and no package of unstable ever reaches the system's apt.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/unpacked"
: >"$work/status"
echo "$APT_LINE" >"$work/sources.list"
private_apt() {
  subcommand=$1
  shift
  apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o APT::Default-Release= \
    -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::State::status="$work/status" \
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 \
    -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false "$subcommand" "$@"
}
private_apt update
(cd "$work" && private_apt download apptainer libc6 libseccomp2 libsqlite3-0)
for package in "$work"/*.deb; do dpkg -x "$package" "$work/unpacked"; done

rm -rf "$prefix"
triplet=$(cd "$work/unpacked/usr/lib" && ls -d ./*-linux-gnu*/apptainer)
triplet=$(basename "$(dirname "$triplet")")
lib=$prefix/lib/$triplet
mkdir -p "$prefix/bin" "$lib" "$prefix/private-libs" "$prefix/var/lib/apptainer/mnt/session"
cp -a "$work/unpacked/usr/bin/apptainer" "$prefix/bin/"
cp -a "$work/unpacked/usr/lib/$triplet/apptainer" "$lib/"
cp -a "$work/unpacked/etc" "$prefix/"
cp -a "$work/unpacked/usr/lib/$triplet"/*.so* "$prefix/private-libs/"
ln -s apptainer "$prefix/bin/singularity"

# Apptainer finds its configuration relative to its own place, and counts on LIBEXECDIR being PREFIX/lib; Debian's
# is one level deeper (PREFIX/lib/TRIPLET), so that it looks below PREFIX/lib for what lies below PREFIX.
ln -s ../etc "$prefix/lib/etc"
ln -s ../var "$prefix/lib/var"
ln -s . "$prefix/lib/lib"

# DT_RPATH, not DT_RUNPATH: Apptainer starts itself with LD_LIBRARY_PATH set, which would win over a RUNPATH.
loader=$(echo "$prefix"/private-libs/ld-linux*.so.*)
for program in "$prefix/bin/apptainer" "$lib/apptainer/bin/starter"; do
  patchelf --set-interpreter "$loader" "$program"
  patchelf --force-rpath --set-rpath "$prefix/private-libs" "$program"
done

# Root inside a container often lacks some capability; by default Apptainer wants them all and refuses to run.
sed -i 's/^root default capabilities *=.*/root default capabilities = no/' "$prefix/etc/apptainer/apptainer.conf"

"$prefix/bin/apptainer" version
