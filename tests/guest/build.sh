# Builds the test guest: a stock kernel and a small initramfs, from packages of
# the distribution. Sourced by `dev`, whose `say`, `die` and `apt_update` it uses.
#
# Nothing is installed for it: the kernel and busybox are downloaded, unpacked
# under target/guest/, and never touch the host's own.
# shellcheck shell=bash

# Modules of the initramfs, in the order in which the guest loads them; what
# they depend on is found by depmod.
GUEST_MODULES=(evdev button virtio_pci virtio_net virtio_rng e1000 e1000e 8139cp af_packet)
# Bumped when the format below changes.
GUEST_FORMAT=2

# Everything that decides what the guest is, as one hash.
guest_inputs() {
    {
        echo "$GUEST_FORMAT ${GUEST_MODULES[*]}"
        cat tests/guest/init tests/guest/build.sh
        cksum <"$(command -v iperf3)"
    } | sha256sum | cut -d' ' -f1
}

# The real packages behind the distribution's kernel metapackage: Debian keeps
# kernel and modules in one package, Ubuntu in several.
guest_kernel_packages() {
    local meta=$1 seen=() queue=("$1") next dependency
    while ((${#queue[@]})); do
        next=${queue[0]}
        queue=("${queue[@]:1}")
        while read -r dependency; do
            case " ${seen[*]} " in *" $dependency "*) continue ;; esac
            seen+=("$dependency")
            queue+=("$dependency")
        done < <(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
            --no-enhances "$next" 2>/dev/null | awk '$1 == "Depends:" || $1 == "|Depends:" {print $2}' |
            grep -E '^linux-(image|modules)(-unsigned)?-[0-9]')
    done
    ((${#seen[@]})) || die "no kernel package found behind $meta: is apt's package list in order? (apt-get update)"
    printf '%s\n' "${seen[@]}"
}

# Downloads packages into a directory, without installing them.
guest_download() {
    local into=$1
    shift
    (cd "$into" && apt-get -q -o APT::Sandbox::User=root download "$@" >/dev/null)
}

guest_build() {
    local out=$GUEST inputs kernel=linux-image-amd64 packages work version file
    inputs=$(guest_inputs)
    if [ -s "$out/vmlinuz" ] && [ -s "$out/initrd" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then
        return
    fi
    [ "$(uname -m)" = x86_64 ] || die "the test guest is built on x86_64 only"
    mkdir -p "$out"
    work=$out/work.$$
    rm -rf "$work"
    mkdir -p "$work/debs" "$work/root" "$work/tree/bin"
    # Half a build is of no use; `dev` runs this when it ends.
    at_end rm -rf "$work"

    apt-cache show busybox-static >/dev/null 2>&1 || apt_update
    apt-cache show "$kernel" >/dev/null 2>&1 || kernel=linux-image-virtual
    mapfile -t packages < <(guest_kernel_packages "$kernel")
    ((${#packages[@]})) || exit 1
    if [ "$(cat "$out/kernel/packages" 2>/dev/null)" != "$GUEST_FORMAT ${packages[*]}" ]; then
        say "downloading ${packages[*]}, busybox-static (unpacked under ${out#"$PWD"/}, not installed)"
        if ! guest_download "$work/debs" "${packages[@]}" busybox-static; then
            # The list named versions that the mirror has replaced since.
            apt_update
            mapfile -t packages < <(guest_kernel_packages "$kernel")
            guest_download "$work/debs" "${packages[@]}" busybox-static || die "cannot download the guest's packages"
        fi
        mkdir "$work/kernel"
        for file in "$work"/debs/*.deb; do
            dpkg-deb --fsys-tarfile "$file" | tar -x -C "$work/kernel" --wildcards --no-anchored \
                'boot/vmlinuz-*' 'bin/busybox' 'modules.order' 'modules.builtin*' \
                'kernel/net/*' 'kernel/lib/*' 'kernel/crypto/*' 'kernel/fs/*' 'kernel/arch/*' \
                'kernel/drivers/net/*' 'kernel/drivers/virtio/*' 'kernel/drivers/acpi/*' \
                'kernel/drivers/input/*' 'kernel/drivers/char/*' 'kernel/drivers/block/*' 2>/dev/null || true
        done
        rm -rf "$out/kernel"
        echo "$GUEST_FORMAT ${packages[*]}" >"$work/kernel/packages"
        mv "$work/kernel" "$out/kernel"
    fi
    local from=$out/kernel
    [ -d "$from/usr/lib/modules" ] && [ ! -e "$from/lib" ] && ln -s usr/lib "$from/lib"
    [ -d "$from/usr/bin" ] && [ ! -e "$from/bin" ] && ln -s usr/bin "$from/bin"
    file=$(find "$from/boot" -name 'vmlinuz-*' | sort | tail -n 1)
    if [ -z "$file" ] || [ ! -x "$from/bin/busybox" ]; then
        rm -rf "$from"
        die "the guest's packages held no kernel or no busybox: try again"
    fi
    version=${file##*/vmlinuz-}

    say "building the test guest from Linux $version"
    [ -e "$from/lib/modules/$version/modules.dep" ] || depmod -b "$from" "$version"
    install -m 755 tests/guest/init "$work/tree/init"
    install -m 755 "$from/bin/busybox" "$work/tree/bin/busybox"
    ln -s busybox "$work/tree/bin/sh"
    guest_add_modules "$from" "$version" "$work/tree" "${GUEST_MODULES[@]}"
    grep -qx e1000.ko "$work/tree/lib/modules/order" || die "Linux $version came without e1000: rm -r $out and try again"
    guest_add_program "$work/tree" "$(command -v iperf3)"
    guest_archive "$work/tree" >"$work/initrd"
    cp -L "$from/boot/vmlinuz-$version" "$work/vmlinuz"
    mv "$work/initrd" "$work/vmlinuz" "$out/"
    echo "$inputs" >"$out/inputs"
    rm -rf "$work"
    say "test guest: ${out#"$PWD"/}/vmlinuz, ${out#"$PWD"/}/initrd ($(du -h "$out/initrd" | cut -f1))"
}

# Puts kernel modules into a tree, uncompressed, and the order to load them in.
guest_add_modules() {
    local from=$1 version=$2 tree=$3 module file
    shift 3
    mkdir -p "$tree/lib/modules"
    for module; do
        # Prints `insmod PATH` lines, dependencies first; nothing for what is built in.
        modprobe -d "$from" -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" {print $2}'
    done | awk '!seen[$0]++' | while read -r file; do
        module=$(basename "$file" | sed 's/\.ko.*/.ko/')
        case $file in
            *.xz) xz -dc "$file" ;;
            *.zst) zstd -dcq "$file" ;;
            *.gz) gzip -dc "$file" ;;
            *) cat "$file" ;;
        esac >"$tree/lib/modules/$module"
        echo "$module" >>"$tree/lib/modules/order"
    done
}

# A tree as an initramfs. Sorted and dated alike, so that the same inputs give the
# same bytes.
guest_archive() {
    (cd "$1" && find . -exec touch -hd @0 {} + && find . | LC_ALL=C sort |
        cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -n -1)
}

# Copies a program with the shared libraries that it is linked to.
guest_add_program() {
    local tree=$1 program=$2 library
    install -D -m 755 "$program" "$tree/usr/bin/$(basename "$program")"
    ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
        install -D -m 755 "$library" "$tree$library"
    done
}
