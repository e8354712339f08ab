/**
 * One cell of the outage matrix: a tiny guest with a cold cache boots through an emulated link, which goes away at the moment when the
 * guest asks for the first block of a phase of its boot, stays away, and comes back. Everything is measured; nothing is judged here but
 * what makes the measurement void.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Digest } from '@collective/shared';
import { eventually, type GuestConsole, type MachineLab, withLab } from '../machine/machine-lab.js';
import { BUILD } from '../support/paths.js';
import { awakeMs } from '../support/promise-time.js';
import { diskErrors } from './disk-errors.js';
import { Probes, type Answers } from './probes.js';
import { type Bus, type Firmware, type Flavour, tinyPlaces } from './tiny-places.js';

export const PHASES = ['firmware', 'boot loader', 'kernel', 'after login'] as const;
export type Phase = (typeof PHASES)[number];
/**
 * `reset`: connections are closed and new ones refused. `silence`: they stay open, also new ones, and carry nothing. `503` and `401`: the server
 * answers every request so.
 */
export type Outage = 'reset' | 'silence' | '503' | '401';

/** What becomes of the machine in the outage. */
export type Ending = 'goes on' | 'stop' | 'suspend';

export type Cell = {
  readonly phase: Phase;
  readonly bus: Bus;
  readonly firmware: Firmware;
  readonly outage: Outage;
  readonly ending: Ending;
  /** How long the link is away before it comes back, or before the machine is stopped. */
  readonly outageMs: number;
};

export const cellName = ({ phase, bus, firmware, outage, ending }: Cell): string =>
  `${phase}, ${bus}, ${firmware}, ${outage}: ${ending}`;

export type CellResult = {
  readonly answers: Answers;
  /** From the cut to the state `paused`. */
  readonly pausedAfterMs: number;
  /** Why the machine was said to be paused, at the end of the outage. */
  readonly why: string;
  readonly outcome: Outcome;
};

export type Outcome =
  | ({
      readonly ending: 'goes on';
      /** From the link's return to: the block that the guest waits for served, and the machine running. */ readonly goesOnAfterMs: number;
    } & Examined)
  | ({
      readonly ending: 'suspend';
      /** Until only the memory image was left. */
      readonly suspendedMs: number;
      readonly resumedMs: number;
    } & Examined)
  | { readonly ending: 'stop'; readonly answeredMs: number; readonly stoppedMs: number };

export type Examined = {
  /** Lines of the guest's kernel log that tell of a disk. */
  readonly diskErrors: readonly string[];
  /** What the guest read of its whole system disk had the right digest, and what it wrote is there. */
  readonly isContentRight: boolean;
};

const READY = /TINY READY .* home=\S+/;
const BOOT_MS = 240_000;
const MACHINE = 'one';

/** The chipset, memory and devices with which the tiny appliance boots from such a disk. */
export const machineWish = ({ bus, firmware }: Pick<Cell, 'bus' | 'firmware'>) =>
  ({
    bus,
    firmware,
    chipset: bus === 'ide' ? 'pc' : 'q35',
    network: 'none',
    // GRUB for UEFI finds no room for the generic kernel in 256 MiB.
    ...(firmware === 'uefi' ? { memoryBytes: 512 << 20 } : {}),
  }) as const;

/** Which disk of the guest is the system's: SATA and IDE disks get their names in the order in which they answer. */
const WHICH_SYSTEM = `if [ -e /dev/vda ]; then S=/dev/vda; elif grep -q ' sda$' /proc/partitions && [ $(cat /sys/block/sda/size) = 98304 ]; then S=/dev/sda; else S=/dev/sdb; fi`;

export class OutageScene {
  readonly lab: MachineLab;
  readonly machine = MACHINE;
  readonly #cell: Cell;
  /** Whether this request, the first time, is the phase's. */
  #isPhase: (digest: Digest) => boolean = () => false;
  #awaited: Digest | undefined;
  #isAway = false;
  #servedAtMs: number | undefined;
  cutAtMs = 0;
  #console: GuestConsole | undefined;

  constructor(lab: MachineLab, cell: Cell) {
    this.lab = lab;
    this.#cell = cell;
    lab.repository.behave = (digest) => {
      if (this.#awaited === undefined && this.#isPhase(digest)) this.#cut(digest);
      if (this.#isAway) return this.#answer;
      if (digest === this.#awaited) this.#servedAtMs ??= awakeMs();
      return 'serve';
    };
  }

  get console(): GuestConsole {
    if (this.#console === undefined) throw new Error('the machine has no console yet');
    return this.#console;
  }

  /** Boots the guest up to the phase; resolves when the link has just gone away. */
  async reachPhase(): Promise<void> {
    const { phase, bus } = this.#cell;
    this.#isPhase = await phaseStart(this.#cell, this.lab);
    await this.lab.start(this.machine, machineWish(this.#cell));
    await this.lab.reaches(this.machine, 'running');
    this.#console = await this.lab.console(this.machine);
    if (phase === 'after login') {
      await this.console.sees(READY, 1, BOOT_MS);
      this.console.type(`${WHICH_SYSTEM}; echo before >/home/before; sync; echo ar''med`);
      await this.console.sees(/armed/, 1, BOOT_MS);
      this.#isPhase = () => true;
      this.console.type('md5sum <$S >/tmp/sum; echo was-r""ead');
    }
    await eventually(`a ${bus} guest reaches the ${phase}`, () => this.#awaited !== undefined, BOOT_MS);
  }

  /** Waits for the pause; gives how long after the cut it came, and why it is said to be. */
  async pause(): Promise<{ readonly pausedAfterMs: number }> {
    await this.lab.reaches(this.machine, 'paused');
    return { pausedAfterMs: Math.round(performance.now() - this.cutAtMs) };
  }

  /** The rest of the outage, in which nothing may change. */
  async sitOut(): Promise<{ readonly why: string }> {
    let why = '';
    await eventually(
      'the outage is over',
      async () => {
        const state = await this.lab.state(this.machine);
        if (state.name !== 'paused' || state.cause !== 'disk')
          throw new Error(`in the outage the machine became ${JSON.stringify(state)}`);
        ({ why } = state);
        return performance.now() - this.cutAtMs >= this.#cell.outageMs;
      },
      this.#cell.outageMs + 60_000,
    );
    return { why };
  }

  /** Stops the machine in the outage; resolves with how long the answer took and how long the machine was still there. */
  async stop(): Promise<{ readonly answeredMs: number; readonly stoppedMs: number }> {
    const stopped = this.lab.reaches(this.machine, 'stopped');
    const askedAtMs = awakeMs();
    await this.lab.client.request('stop', { machine: this.machine });
    const answeredMs = Math.round(awakeMs() - askedAtMs);
    await stopped;
    return { answeredMs, stoppedMs: Math.round(awakeMs() - askedAtMs) };
  }

  /** Suspends the machine in the outage, and resumes it when the link is back. */
  async suspendAndResume(): Promise<{ readonly suspendedMs: number; readonly resumedMs: number }> {
    const askedAtMs = awakeMs();
    await this.lab.client.request('suspend', { machine: this.machine });
    const suspendedMs = Math.round(awakeMs() - askedAtMs);
    this.#end();
    const resumedAtMs = performance.now();
    await this.lab.resume(this.machine);
    await this.lab.reaches(this.machine, 'running');
    this.#console = await this.lab.console(this.machine);
    return { suspendedMs, resumedMs: Math.round(performance.now() - resumedAtMs) };
  }

  /** The link is back; resolves with how long it took until the guest has its block and goes on. */
  async comeBack(): Promise<{ readonly goesOnAfterMs: number }> {
    const going = this.lab.reaches(this.machine, 'running', 120_000);
    this.#end();
    const backAtMs = awakeMs();
    await going;
    const runningAtMs = awakeMs();
    await eventually('the block that the guest waits for is served', () => this.#servedAtMs !== undefined);
    return { goesOnAfterMs: Math.round(Math.max(runningAtMs, this.#servedAtMs ?? 0) - backAtMs) };
  }

  /** Lets the guest finish its boot, read its whole system disk, write and read its user disk, and show its kernel's log. */
  async examine(): Promise<Examined> {
    const { console } = this;
    if (this.#cell.phase !== 'after login') await console.sees(READY, 1, BOOT_MS);
    if (this.#cell.phase === 'after login') await console.sees(/was-read/, 1, BOOT_MS);
    else console.type(`${WHICH_SYSTEM}; echo before >/home/before; md5sum <$S >/tmp/sum; echo was-r""ead`);
    console.type(
      'echo after >/home/after; sync; echo 3 >/proc/sys/vm/drop_caches; echo "cont""ent" $(cat /tmp/sum /home/before /home/after)',
    );
    await console.sees(/content \w+ - .*after/, 1, BOOT_MS);
    console.type('dmesg; echo end-of-l""og');
    await console.sees(/end-of-log/, 1, BOOT_MS);
    if (!console.text.includes('Linux version')) throw new Error('the guest showed no kernel log');
    const { systemMd5 } = await tinyPlaces();
    return {
      diskErrors: diskErrors(console.text),
      isContentRight: console.text.includes(`content ${systemMd5} - before after`),
    };
  }

  /** Of the link it is the end, which the signal may take a moment to bring. */
  get #answer(): 'silent' | { readonly status: number } {
    const { outage } = this.#cell;
    return outage === '503' || outage === '401' ? { status: Number(outage) } : 'silent';
  }

  #end(): void {
    const { outage } = this.#cell;
    this.#isAway = false;
    if (outage === 'reset' || outage === 'silence') this.lab.link.up();
  }

  #cut(digest: Digest): void {
    this.#awaited = digest;
    this.#isAway = true;
    this.cutAtMs = performance.now();
    if (this.#cell.outage === 'reset') this.lab.link.down();
    else if (this.#cell.outage === 'silence') this.lab.link.silence();
  }
}

/** Tells the request with which a phase begins, or is under way. */
const phaseStart = async (cell: Cell, lab: MachineLab): Promise<(digest: Digest) => boolean> => {
  const places = await tinyPlaces();
  const flavour: Flavour = cell.bus === 'virtio' ? 'cloud' : 'generic';
  switch (cell.phase) {
    case 'firmware':
      return (digest) => places.bootLoader[cell.firmware].has(digest);
    case 'boot loader':
      return (digest) => places.kernel[flavour].has(digest);
    case 'kernel': {
      // Firmware looks at the user disk, too: it counts only when kernel and initrd have been loaded.
      const last = [...places.initrd[flavour]].at(-1);
      return (digest) =>
        places.userDisk.has(digest) && lab.repository.requests.some(({ digest: asked }) => asked === last);
    }
    case 'after login':
      return () => false; // armed at the prompt
    default:
      return cell.phase satisfies never;
  }
};

const endings: { readonly [E in Ending]: (scene: OutageScene) => Promise<Extract<Outcome, { ending: E }>> } = {
  stop: async (scene) => ({ ending: 'stop', ...(await scene.stop()) }),
  'goes on': async (scene) => {
    const { goesOnAfterMs } = await scene.comeBack();
    return { ending: 'goes on', goesOnAfterMs, ...(await scene.examine()) };
  },
  suspend: async (scene) => {
    const measured = await scene.suspendAndResume();
    return { ending: 'suspend', ...measured, ...(await scene.examine()) };
  },
};

/** How the machine was when a cell failed: its state, and its screen as a picture below build. */
const describeMachine = async (lab: MachineLab, cell: Cell): Promise<string> => {
  const { png } = await lab.client.request('screendump', { machine: MACHINE });
  const file = path.join(BUILD, 'outages', `${cellName(cell).replaceAll(/[^a-z]+/g, '-')}.png`);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, Buffer.from(png, 'base64'));
  return `the machine is ${JSON.stringify(await lab.state(MACHINE))}; its screen: ${file}`;
};

/** The whole cell in a home of its own. */
export const runCell = async (cell: Cell): Promise<CellResult> =>
  await withLab(
    async (lab) => {
      try {
        return await live(lab, cell);
      } catch (error) {
        const how = await describeMachine(lab, cell).catch((failure: unknown) => String(failure));
        throw new Error(`${cellName(cell)}: ${how}`, { cause: error });
      }
    },
    { withLink: true },
  );

const live = async (lab: MachineLab, cell: Cell): Promise<CellResult> => {
  const scene = new OutageScene(lab, cell);
  await scene.reachPhase();
  await using probes = await Probes.begin(lab.home, scene.machine);
  const { pausedAfterMs } = await scene.pause();
  const { why } = await scene.sitOut();
  const answers = await probes.end();
  return { answers, pausedAfterMs, why, outcome: await endings[cell.ending](scene) };
};
