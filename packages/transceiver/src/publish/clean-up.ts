/**
 * What is run in a maintained guest before it is published, command by command, by its agent as root. The publisher sees
 * the list before. A recipe may have another (`cleanUp` of its appliance.json). Each command does nothing where it has
 * nothing to do; one that fails ends the publish. This module is loaded by the command line: it imports nothing.
 */
export type CleanUpCommand = { readonly what: string; readonly command: string };

/** For Linux systems. What identifies one machine is made anew at its next start; `fstrim` zeroes free blocks. */
export const DEFAULT_CLEAN_UP: readonly CleanUpCommand[] = [
  {
    what: 'the machine id',
    command:
      '[ ! -e /etc/machine-id ] || : >/etc/machine-id; rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed',
  },
  { what: 'SSH host keys', command: 'rm -f /etc/ssh/ssh_host_*' },
  {
    what: 'logs',
    command:
      'if command -v journalctl >/dev/null; then journalctl -q --rotate --vacuum-size=1K || true; fi; [ ! -d /var/log ] || find /var/log -type f -exec sh -c \'for file; do : >"$file"; done\' sh {} +',
  },
  {
    what: 'package caches',
    command:
      'if command -v apt-get >/dev/null; then apt-get -q clean && rm -rf /var/lib/apt/lists/*; fi; if command -v dnf >/dev/null; then dnf -q clean all; fi; if command -v apk >/dev/null; then rm -rf /var/cache/apk/*; fi',
  },
  {
    what: 'temporary files, shell histories and caches of root',
    command:
      'find /tmp /var/tmp -mindepth 1 -delete 2>/dev/null || true; rm -rf /root/.cache /root/.bash_history /root/.ash_history /root/.lesshst',
  },
  {
    what: 'free blocks (fstrim)',
    command:
      'sync; if command -v fstrim >/dev/null; then fstrim / || echo "free blocks were not zeroed: this file system cannot trim"; fi; sync',
  },
];
