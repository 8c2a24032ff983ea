# Builds a small installation ISO for tests: GRUB, the test guest's kernel, and a
# live system in memory with what an installation takes (fdisk, mkfs.ext4,
# grub-install, all from this machine's packages) and a base system to install.
# Sourced by `dev`.
# shellcheck shell=bash

# Of the live and of the installed system.
ISO_MODULES=(evdev button virtio_pci virtio_blk virtio_net e1000 af_packet crc32c_generic ext4)
# What only the installed system's initramfs needs.
ISO_ROOT_MODULES=(virtio_pci virtio_blk crc32c_generic ext4)

iso_build() {
    local out=$ISO inputs work from=$GUEST/kernel version program
    inputs=$({ echo "${ISO_MODULES[*]}" && cat tests/guest/iso.sh tests/guest/installed/* "$GUEST/inputs" &&
        cksum <"$(command -v grub-install)"; } | sha256sum | cut -d' ' -f1)
    if [ -s "$out/install.iso" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then
        return
    fi
    mkdir -p "$out"
    work=$out/work.$$
    at_end rm -rf "$work"
    version=$(basename "$(find "$from/boot" -name 'vmlinuz-*' | sort | tail -n 1)")
    version=${version#vmlinuz-}
    say "building an installation ISO from Linux $version"

    # The base system.
    local base=$work/base
    mkdir -p "$base"/{bin,sbin,boot/grub,etc/network/if-{pre-up,up,down,post-down}.d,proc,sys,dev,tmp,run,root,etc/udhcpc,var/run,lib/modules}
    install -m 755 "$from/bin/busybox" "$base/bin/busybox"
    ln -s busybox "$base/bin/sh"
    install -m 755 tests/guest/installed/init "$base/sbin/init"
    install -m 755 tests/guest/installed/udhcpc "$base/etc/udhcpc/default.script"
    install -m 644 tests/guest/installed/interfaces "$base/etc/network/interfaces"
    install -m 644 tests/guest/installed/grub.cfg "$base/boot/grub/grub.cfg"
    guest_add_modules "$from" "$version" "$base" "${ISO_MODULES[@]}"
    cp -L "$from/boot/vmlinuz-$version" "$base/boot/vmlinuz"
    # Its initramfs, which finds the disk.
    mkdir -p "$work/root"/{bin,proc,sys,dev,new}
    install -m 755 "$from/bin/busybox" "$work/root/bin/busybox"
    ln -s busybox "$work/root/bin/sh"
    install -m 755 tests/guest/installed/find-root "$work/root/init"
    guest_add_modules "$from" "$version" "$work/root" "${ISO_ROOT_MODULES[@]}"
    guest_archive "$work/root" >"$base/boot/initrd"

    # The live system.
    local live=$work/live
    mkdir -p "$live"/{bin,sbin,etc,proc,sys,dev,tmp,run,root,mnt,usr/lib/grub}
    install -m 755 "$from/bin/busybox" "$live/bin/busybox"
    ln -s busybox "$live/bin/sh"
    install -m 755 tests/guest/installed/live "$live/init"
    for program in fdisk mkfs.ext4 grub-install grub-probe blkid; do
        guest_add_program "$live" "$(command -v $program)"
    done
    cp -r /usr/lib/grub/i386-pc "$live/usr/lib/grub/"
    guest_add_modules "$from" "$version" "$live" "${ISO_MODULES[@]}"
    tar -C "$base" --owner=0 --group=0 --numeric-owner -cf "$live/base.tar" .

    mkdir -p "$work/iso/boot/grub"
    guest_archive "$live" >"$work/iso/boot/initrd"
    cp "$base/boot/vmlinuz" "$work/iso/boot/vmlinuz"
    cat >"$work/iso/boot/grub/grub.cfg" <<'GRUB'
set timeout=0
linux /boot/vmlinuz console=ttyS0 quiet no_timer_check
initrd /boot/initrd
boot
GRUB
    grub-mkrescue -d /usr/lib/grub/i386-pc -o "$work/install.iso" "$work/iso" >"$out/mkrescue.log" 2>&1 || {
        tail -n 10 "$out/mkrescue.log" >&2
        die "grub-mkrescue failed"
    }
    mv "$work/install.iso" "$out/install.iso"
    echo "$inputs" >"$out/inputs"
    rm -rf "$work"
    say "installation ISO: ${out#"$PWD"/}/install.iso ($(du -h "$out/install.iso" | cut -f1))"
}
