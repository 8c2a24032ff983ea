# Tools of the tests whose packages would start a service where they are
# installed. They are downloaded and unpacked under target/tools/ instead. Sourced
# by `dev`, whose `say`, `die` and `apt_update` it uses.
# shellcheck shell=bash

# promtool, of the package prometheus.
tools_fetch() {
    local work=$TARGET/tools.work deb
    if command -v promtool >/dev/null; then return; fi
    apt_update
    say "promtool: unpacking the package prometheus in target/tools; nothing is installed, no service starts"
    rm -rf "$work"
    mkdir -p "$work" "$TOOLS"
    (cd "$work" && apt-get -q download prometheus >apt.log 2>&1) ||
        die "apt-get could not download prometheus: $(tail -n 1 "$work/apt.log")"
    deb=$(echo "$work"/prometheus_*.deb)
    dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/bin/promtool >"$work/promtool"
    chmod 755 "$work/promtool"
    mv "$work/promtool" "$TOOLS/promtool"
    rm -rf "$work"
}
