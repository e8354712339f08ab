#!/bin/sh
# What build.sh lets mmdebstrap do when the packages are installed: accounts and services. It runs outside the new
# root, which is "$1". It removes nothing (build.sh says why).
set -eu
root="$1"
# The environment is kept: with --mode=fakechroot it is what makes chroot one.
in_root() { PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"; }

# The demo's passwords, "collective" and "person", by `openssl passwd -6 -salt collective`; the notes of
# appliance.json name them.
# shellcheck disable=SC2016 # these are not variables
root_hash='$6$collective$L8Q/G44nXyFGfwJhnR/iGbcXLWLDx/mf0Mdz7zkC/FCY2E/tucuiBaLRFRPzhdf9fC3SN4B4bjcqGekEuKv6o1'
# shellcheck disable=SC2016
person_hash='$6$collective$GA7o5K0EZi.41kd9J24gq8eczuIs1v4amcxFwrlLdEyge3uFH3uq7a6gH9SRFJLgUdCuXzCkspTcrJ09EEC2p.'
in_root groupadd -g 1000 person
in_root useradd -u 1000 -g 1000 -G sudo,systemd-journal -m -s /bin/bash -p "$person_hash" person
in_root usermod -p "$root_hash" root

in_root systemctl --quiet enable systemd-networkd.service ephemeral.service late-coldplug.service
in_root systemctl --quiet disable systemd-networkd-wait-online.service
# Work that a virtual machine, or a system that is thrown away at each start, does not need.
in_root systemctl --quiet mask \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-random-seed.service systemd-machine-id-commit.service systemd-journal-flush.service systemd-pstore.service \
  systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-network-generator.service \
  systemd-modules-load.service systemd-remount-fs.service proc-sys-fs-binfmt_misc.automount \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service \
  modprobe@dm_mod.service modprobe@loop.service
# systemd-user-sessions holds the prompt back until there is a network; its other work, to allow logins, is not needed
# without the file that forbids them.
in_root systemctl --quiet mask systemd-user-sessions.service
in_root ln -sf /dev/null /etc/tmpfiles.d/systemd-nologin.conf
# Generators for what this system does not have. Each is a program that systemd waits for before it does anything.
in_root mkdir -p /etc/systemd/system-generators
for name in bless-boot cryptsetup debug gpt-auto hibernate-resume integritysetup rc-local run system-update sysv veritysetup; do
  in_root ln -sf /dev/null "/etc/systemd/system-generators/systemd-$name-generator"
done
# The start of the system does not wait for the resolver, nor for its /var/tmp.
in_root sed '/^Before=/d; s/^WantedBy=.*/WantedBy=multi-user.target/' /lib/systemd/system/systemd-resolved.service \
  >"$root/etc/systemd/system/systemd-resolved.service"
in_root systemctl --quiet reenable systemd-resolved.service
in_root ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
