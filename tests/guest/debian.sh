# Builds a Debian system for tests of what real distributions do: systemd,
# cloud-init, an ssh server, GRUB on an MBR disk of one ext4 partition. Sourced
# by `dev`, whose `say`, `die` and `as_root` it uses.
#
# The file system is made from a folder and GRUB is put before it by hand, so
# nothing is mounted and no loop device is needed.
# shellcheck shell=bash

DEBIAN_PACKAGES=(systemd systemd-sysv dbus cloud-init openssh-server iproute2 iputils-ping
    python3 python3-cffi-backend linux-image-cloud-amd64 initramfs-tools zstd)
# Bumped when the format below changes.
DEBIAN_FORMAT=1

# Mirror and release of this machine, as apt has them.
debian_source() {
    local codename
    # shellcheck disable=SC1091  # the running system's own description
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format $'$(SITE)\t$(CODENAME)' 'Created-By: Packages' |
        awk -F'\t' -v c="$codename" '$2 == c {print $1 "\t" c; exit}'
}

debian_build() {
    local out=$DEBIAN inputs work mirror codename
    inputs=$({ echo "$DEBIAN_FORMAT ${DEBIAN_PACKAGES[*]}" && cat tests/guest/debian.sh; } | sha256sum | cut -d' ' -f1)
    if [ -s "$out/base.qcow2" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then
        return
    fi
    IFS=$'\t' read -r mirror codename < <(debian_source) || true
    [ -n "${mirror:-}" ] || die "no apt source of this release was found to make a Debian guest from"
    mkdir -p "$out"
    work=$out/work.$$
    at_end as_root rm -rf "$work"
    say "building a $codename guest by debootstrap: takes some minutes, once"
    mkdir -p "$work"
    as_root debootstrap --variant=minbase --merged-usr --include="$(
        IFS=,
        echo "${DEBIAN_PACKAGES[*]}"
    )" "$codename" "$work/root" "$mirror" >"$out/debootstrap.log" 2>&1 || {
        tail -n 20 "$out/debootstrap.log" >&2
        die "debootstrap failed (all of it: $out/debootstrap.log)"
    }
    debian_settle "$work/root"
    debian_image "$work"
    mv "$work/base.qcow2" "$out/base.qcow2"
    echo "$inputs" >"$out/inputs"
    as_root rm -rf "$work"
    say "Debian guest: ${out#"$PWD"/}/base.qcow2 ($(du -h "$out/base.qcow2" | cut -f1))"
}

# What an image has of its own: no identity, a console, networks by networkd.
debian_settle() {
    local root=$1
    as_root sh -s "$root" <<'SETTLE'
set -e
cd "$1"
rm -f etc/machine-id etc/hostname etc/ssh/ssh_host_* var/lib/dbus/machine-id
: >etc/machine-id
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*
echo '/dev/vda1 / ext4 errors=remount-ro 0 1' >etc/fstab
echo '127.0.0.1 localhost' >etc/hosts
wants=etc/systemd/system/multi-user.target.wants
mkdir -p "$wants"
ln -sf /lib/systemd/system/systemd-networkd.service "$wants/"
# A seed or nothing: no metadata service is asked for, nor waited on.
echo 'datasource_list: [NoCloud, None]' >etc/cloud/cloud.cfg.d/90-seed.cfg
mkdir -p boot/grub
kernel=$(ls boot | grep ^vmlinuz- | sort | tail -n 1)
cat >boot/grub/grub.cfg <<GRUB
set timeout=0
linux /boot/$kernel root=/dev/vda1 ro console=ttyS0 quiet no_timer_check
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
GRUB
SETTLE
}

# One partition at 1 MiB, and GRUB's two parts in front of it.
debian_image() {
    local work=$1 raw=$1/raw size=1400
    truncate -s "${size}M" "$raw"
    # A Linux partition (83), active, from sector 2048 to the end.
    printf '\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00' >"$work/entry"
    # Its length in sectors, four bytes, the lowest first.
    local sectors=$(((size - 1) * 2048)) shift
    for shift in 0 8 16 24; do
        # shellcheck disable=SC2059  # the format is the byte
        printf "\\x$(printf %02x $((sectors >> shift & 255)))"
    done >>"$work/entry"
    printf '\x55\xaa' >"$work/signature"
    grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$work/core.img" biosdisk part_msdos ext2 normal linux boot
    dd if=/usr/lib/grub/i386-pc/boot.img of="$raw" bs=440 count=1 conv=notrunc status=none
    dd if="$work/entry" of="$raw" bs=1 seek=446 conv=notrunc status=none
    dd if="$work/signature" of="$raw" bs=1 seek=510 conv=notrunc status=none
    dd if="$work/core.img" of="$raw" bs=512 seek=1 conv=notrunc status=none
    as_root mkfs.ext4 -q -d "$work/root" -E offset=1048576 "$raw" "$((size - 1))M"
    qemu-img convert -f raw -O qcow2 -c "$raw" "$work/base.qcow2"
}
