/**
 * What the guest does while its helpers are killed: apt installs, fio writes and verifies, and a heart beats on the user disk.
 * Each is a unit of systemd's that writes down what it has done in /run/kills, in memory.
 */
import type { GuestShell } from './guest-shell.js';

const FOLDER = '/run/kills';
const APT =
  'apt-get -q -y -o Dir::Etc::SourceList=/run/kills/shelf.list -o Dir::Etc::SourceParts=- -o Dpkg::Options::=--path-include=/*';
/** A guest under emulation, on a machine that others use, with a process being killed every few seconds. */
const FINISH_MS = 1_500_000;
const BEAT_MS = 90_000;

/** What is installed, one after the other; fio is first, because it is needed. */
export const PACKAGE_SETS = ['fio', 'vim', 'git python3-minimal', 'build-essential'] as const;

/** Round after round: every set is installed, then all but fio are purged. Ends after an installation when told. */
const aptScript = (sets: readonly string[]): string => `#!/bin/bash
set -eu
trap 'echo "$?" >${FOLDER}/apt.code' EXIT
fresh() { sync; echo 3 >/proc/sys/vm/drop_caches; rm -f /ephemeral/apt/cache/archives/*.deb; }
installs=0
while :; do
  for set in ${sets.map((set) => `'${set}'`).join(' ')}; do
    echo "install $set"
    ${APT} install $set
    fresh
    installs=$((installs + 1)); echo "$installs" >${FOLDER}/apt.done
    if [ -e ${FOLDER}/stop ]; then exit 0; fi
  done
  echo purge
  ${APT} purge --autoremove ${sets.slice(1).join(' ')}
  fresh
done
`;

/** What a pass writes: sixteen bytes again and again, the seed and the offset of the block that was written. */
export const FIO_PATTERN_BYTES = 16;
export const fioSeedBytes = (seed: number): Buffer =>
  Buffer.from(`c011ec71${seed.toString(16).padStart(8, '0')}`, 'hex');

const FIO_COMMON =
  '--name=global --direct=1 --ioengine=libaio --rw=randwrite --verify=pattern --verify_interval=512 --verify_fatal=1 --randrepeat=0 --verify_backlog=256 --verify_backlog_batch=64';

/** The two jobs of a pass; the same words with --verify_only read them again. `seed` and `seedHex` may be a shell's variables. */
export const fioPass = (
  disks: { readonly field: string; readonly scratch: string },
  seed: string,
  seedHex: string,
): string =>
  [
    `${FIO_COMMON} --randseed=${seed} --verify_pattern=0x${seedHex}%o`,
    `--name=field --filename=${disks.field} --iodepth=8 --bs=512,512,512 --bssplit=512/40:4k/40:16k/15:32k/5 --io_size=6m --fsync=64`,
    `--name=scratch --filename=${disks.scratch} --iodepth=16 --bs=4k --io_size=12m --fsync=256`,
  ].join(' ');

/** Pass after pass, each with the next seed, until told; at least one, as soon as apt has installed it. */
const fioScript = (seed: number): string => `#!/bin/bash
set -eu
trap 'echo "$?" >${FOLDER}/fio.code' EXIT
cd ${FOLDER}
until [ -e ${FOLDER}/apt.done ]; do sleep 1; done
seed=${seed} passes=0
while :; do
  fio --output=${FOLDER}/fio.out ${fioPass(
    { field: '/dev/disk/by-id/virtio-field', scratch: '/dev/disk/by-id/virtio-scratch' },
    '$seed',
    '$(printf c011ec71%08x $seed)',
  )}
  passes=$((passes + 1)); echo "$passes $seed" >${FOLDER}/fio.done
  if [ -e ${FOLDER}/stop ]; then exit 0; fi
  seed=$((seed + 1))
done
`;

/** A small write and its flush on the user disk, again and again, with few processes: it is seen from outside that the guest goes on. */
const BEAT_SCRIPT = `#!/bin/bash
set -eu
exec 9<> <(:)
beat=0
while :; do
  beat=$((beat + 1))
  echo "$beat" >/home/beat; sync /home/beat
  echo "$beat" >${FOLDER}/beat
  read -r -t 0.1 -u 9 || :
done
`;

export type WorkDone = { readonly installs: number; readonly fioPasses: number; readonly lastFioSeed: number };

export class Workload {
  readonly #guest: GuestShell;
  readonly #seed: number;

  private constructor(guest: GuestShell, seed: number) {
    this.#guest = guest;
    this.#seed = seed;
  }

  /** Puts the scripts in place and starts the heart; the rest is started by name. */
  static async prepare(guest: GuestShell, seed: number, sets: readonly string[]): Promise<Workload> {
    await guest.write(`${FOLDER}/apt`, aptScript(sets));
    await guest.write(`${FOLDER}/fio`, fioScript(seed));
    await guest.write(`${FOLDER}/heart`, BEAT_SCRIPT);
    await guest.write(`${FOLDER}/shelf.list`, 'deb [trusted=yes] copy:/run/shelf ./\n');
    await guest.check('renice -n -10 -p $(pidof qemu-ga)'); // it is asked while apt and fio take all there is
    await guest.check(`mkdir -p /run/shelf && mount -o ro LABEL=shelf /run/shelf && ${APT} update`);
    const workload = new Workload(guest, seed);
    await workload.#begin('heart');
    await guest.check(`until [ -s ${FOLDER}/beat ]; do sleep 0.1; done`);
    return workload;
  }

  async begin(): Promise<void> {
    await this.#begin('apt');
    await this.#begin('fio');
  }

  async #begin(name: string): Promise<void> {
    await this.#guest.check(
      `systemctl is-active -q kills-${name} || systemd-run -q --unit=kills-${name} -p StandardOutput=append:${FOLDER}/${name}.log -p StandardError=append:${FOLDER}/${name}.log -p KillMode=mixed -p Nice=${name === 'heart' ? -10 : 0} /bin/bash -c "export PATH=$PATH LC_ALL=C DEBIAN_FRONTEND=noninteractive; exec bash ${FOLDER}/${name}"`,
    );
  }

  /**
   * Resolves when the guest has written and flushed anew, and says whether fio has begun or is still being installed; fails
   * when the guest does not go on, or apt or fio have ended.
   */
  async goesOn(after: string): Promise<{ readonly isFioRunning: boolean }> {
    // One command that waits in the guest: under emulation each costs a fifth of a second. Two beats: one may have been under way.
    const script = `
      until read -r before <${FOLDER}/beat; do :; done
      for turn in {1..${BEAT_MS / 200}}; do
        until read -r beat <${FOLDER}/beat; do :; done
        if [ "$beat" -ge $((before + 2)) ]; then break; fi
        sleep 0.2
      done
      cat ${FOLDER}/apt.code ${FOLDER}/fio.code 2>/dev/null
      if [ "$beat" -lt $((before + 2)) ]; then echo still; fi
      if [ -e ${FOLDER}/apt.done ]; then echo fio; fi`;
    const { output } = await this.#guest.run(script, 2 * BEAT_MS);
    if (['', 'fio'].includes(output.trim())) return { isFioRunning: output.includes('fio') };
    const what = output.includes('still') ? 'the guest does not go on' : 'apt or fio ended in the guest';
    throw new Error(`${what} after ${after}:\n${await this.logs()}`);
  }

  /** Resolves when apt has installed fio and fio has begun. */
  async fioHasBegun(): Promise<void> {
    const script = `until [ -e ${FOLDER}/apt.done -o -e ${FOLDER}/apt.code ]; do sleep 1; done; test -e ${FOLDER}/apt.done`;
    const { code } = await this.#guest.run(script, FINISH_MS);
    if (code !== 0) throw new Error(`apt failed in the guest:\n${await this.logs()}`);
  }

  async done(): Promise<WorkDone> {
    const text = await this.#guest.check(
      `cat ${FOLDER}/apt.done 2>/dev/null || echo 0; cat ${FOLDER}/fio.done 2>/dev/null || echo 0 ${this.#seed}`,
    );
    const [installs, passes, seed] = text.trim().split(/\s+/).map(Number);
    return { installs: installs ?? 0, fioPasses: passes ?? 0, lastFioSeed: seed ?? this.#seed };
  }

  /** Tells both to end with what they are at, and waits for it. */
  async finish(): Promise<WorkDone> {
    await this.#guest.check(`touch ${FOLDER}/stop`);
    // Waited for in the guest: a failure of either ends it as well.
    const { output } = await this.#guest.run(
      `cd ${FOLDER}; until [ -e apt.code -a -e fio.code ] || [ "$(cat *.code 2>/dev/null | tr -d '0\\n')" ]; do sleep 1; done; cat *.code`,
      FINISH_MS,
    );
    if (!/^0\s+0$/.test(output.trim())) throw new Error(`apt or fio failed in the guest:\n${await this.logs()}`);
    await this.#guest.check('systemctl stop kills-heart; sync');
    return await this.done();
  }

  async logs(): Promise<string> {
    const { output } = await this.#guest.run(
      `tail -c 3000 ${FOLDER}/apt.log; tail -c 3000 ${FOLDER}/fio.log; tail -c 3000 ${FOLDER}/fio.out; dmesg | tail -n 12
      echo "== heart at $(cat ${FOLDER}/beat)"; cat ${FOLDER}/heart.log; systemctl --no-pager status kills-heart | head -n 20
      ps -eo pid,stat,wchan:30,args | awk '$2 ~ /D/ || /kills/'; for pid in $(ps -eo pid,stat | awk '$2 ~ /D/ { print $1 }'); do echo "== $pid"; cat /proc/$pid/stack; done`,
    );
    return output;
  }
}
