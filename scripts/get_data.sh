#!/usr/bin/env bash
# Put Fashion-MNIST (MIT licence, 31 MB) in .data/fashion-mnist, from the Debian package dataset-fashion-mnist.
# No root needed. Does nothing when packlight's reader would already find the data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=fashion-mnist
files=({train,t10k}-{images-idx3,labels-idx1}-ubyte.gz)

complete() {
    local file
    for file in "${files[@]}"; do
        [[ -s $1/$file ]] || return 1
    done
}

fail() {
    echo "packlight: $*" >&2
    echo "packlight: by hand: take the four files ${files[*]} from the Fashion-MNIST authors' repository" \
        "zalandoresearch/fashion-mnist and put them in .data/$name" >&2
    exit 1
}

for place in ${PACKLIGHT_DATA:+"$PACKLIGHT_DATA"} .data /usr/share/datasets; do
    if complete "$place/$name"; then
        echo "packlight: Fashion-MNIST is in $place/$name"
        exit 0
    fi
done

command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    fail "Fashion-MNIST comes as a Debian package, and this machine has no apt-get"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

download() { (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "dataset-$name") 2>"$work/log"; }

echo "packlight: fetching the Debian package dataset-$name"
if ! download; then
    [[ $(id -u) == 0 ]] || fail "apt-get download failed: $(tail -n 1 "$work/log") (a root's apt-get update may help)"
    apt-get -qq update || true
    download || fail "apt-get download failed: $(tail -n 1 "$work/log")"
fi
dpkg -x "$work"/dataset-"$name"*.deb "$work/unpacked"
complete "$work/unpacked/usr/share/datasets/$name" || fail "the package dataset-$name holds other files than expected"

mkdir -p .data
rm -rf ".data/$name.new" ".data/$name"
cp -R "$work/unpacked/usr/share/datasets/$name" ".data/$name.new"
mv ".data/$name.new" ".data/$name"
echo "packlight: Fashion-MNIST is in .data/$name"
