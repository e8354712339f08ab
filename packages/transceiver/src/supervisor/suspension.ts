/**
 * What one machine has in memory, when that is a file or about to become one (ADR 0012): saving a guest, and going on when that fails;
 * loading it; throwing it away. When it may be done is machine-unit.ts's affair; what the steps are, suspend-steps.ts's.
 *
 *   nothing ── save ──> saving ──> image ── load ──> nothing       image.json, durable, is the image; without it the guest runs
 *                          └── fails: the guest goes on ──┘
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError } from '@collective/shared';
import { endUnfinishedMove } from '../machine/device-state.js';
import { waitForEnd } from '../machine/process-identity.js';
import { CPU_MODEL, MACHINE_TYPES } from '../machine/qemu-arguments.js';
import type { QemuProcess } from '../machine/qemu-process.js';
import type { QemuUser } from '../machine/qemu-user.js';
import type { DiskKey } from './disk-keys.js';
import type { DiskService } from './disk-service.js';
import type { MachineSpec } from './machine-spec.js';
import { MEMORY_IS_LOST, type MachineEvent } from './machine-state.js';
import { layersOf, type MemoryImage, type MemoryImages } from './memory-image.js';
import type { RunningGuest } from './running-guest.js';
import { loadMachine, saveMachine, syncGuest } from './suspend-steps.js';

/** While a machine is stopped to be saved: QEMU waits for pending reads, and those are repeated when it is resumed. */
const SUSPEND_WAIT_MS = 50;
/** A killed process outlives its sockets by so much at most. */
const END_GRACE_MS = 2_000;
/** So long is waited for that of one whose sockets are there, before its guest goes on. */
const DYING_MS = 200;
const ASK_AGAIN_MS = 1_000;

export type SuspensionOptions = {
  readonly spec: MachineSpec;
  readonly disks: DiskService;
  readonly images: MemoryImages;
  readonly user: QemuUser | undefined;
  /** The image is encrypted with it; undefined: it is not. */
  readonly diskKey: DiskKey | undefined;
  readonly next: (event: MachineEvent) => void;
  /** False: it was stopped meanwhile. */
  readonly isSuspending: () => boolean;
  readonly log: (text: string) => void;
};

/** What the image says that is not the guest's. */
export type SuspensionFacts = Pick<MemoryImage, 'startedAtMs' | 'restarts' | 'accelerator'> & {
  /** The guest runs: what it has written is put on its disks first. */
  readonly mustSync: boolean;
};

export class Suspension {
  readonly #options: SuspensionOptions;
  readonly #cancelled = new AbortController();
  #image: MemoryImage | undefined;
  /** Resolves when there is an image. */
  #saving: Promise<void> | undefined;

  /** `image`: of a machine that is suspended. */
  constructor(options: SuspensionOptions, image?: MemoryImage) {
    this.#options = options;
    this.#image = image;
  }

  /** What the machine is, or was until it ran on from it. */
  get image(): MemoryImage | undefined {
    return this.#image;
  }

  /** What `save` began and has not failed; undefined: nothing. */
  get saving(): Promise<void> | undefined {
    return this.#saving;
  }

  /** The image is there, and its QEMU may be still. */
  get isCommitted(): boolean {
    return this.#image !== undefined && this.#saving !== undefined;
  }

  /**
   * Stops the guest and saves it; called once at a time. QEMU is still there when it resolves, stopped. When it fails the guest goes on.
   * Errors: `local-io` (also when QEMU has ended), `disk-full`, `shutting-down` when the machine was stopped meanwhile.
   */
  async save(guest: RunningGuest, facts: SuspensionFacts): Promise<void> {
    this.#saving ??= this.#save(guest, facts).catch((error: unknown) => {
      this.#saving = undefined;
      throw error;
    });
    await this.#saving;
  }

  /** The machine is being stopped: what has not been saved yet will not be. */
  cancel(): void {
    this.#cancelled.abort(this.#stopped());
  }

  /** After QEMU's end: waits for what is under way. It may have ended as soon as its memory was held open. */
  async isSaved(): Promise<boolean> {
    try {
      await this.#saving;
    } catch {
      return false;
    }
    return this.isCommitted;
  }

  /** Into a QEMU that was started for it; from then on the machine is that QEMU. Errors: `cannot-resume`, `local-io`. */
  async load(qemu: QemuProcess, signal: AbortSignal): Promise<void> {
    const { images, spec, diskKey } = this.#options;
    if (this.#image === undefined) return;
    await loadMachine(qemu, { image: this.#image, images, diskKey, signal });
    // An image whose guest has run on would be a lie.
    await images.remove(spec.machine);
    this.#image = undefined;
  }

  /** Its disks have been let go: the layers that they are now belong to the image. */
  async nameLayers(): Promise<void> {
    if (this.#image === undefined) return;
    this.#image = { ...this.#image, layers: await layersOf(this.#image.spec) };
    await this.#options.images.commit(this.#image);
  }

  /** Durable: it cannot be resumed any more, nor while it is being removed, which takes a while for a large memory. */
  async discard(): Promise<void> {
    const image = this.#image;
    this.#image = undefined;
    try {
      await this.#options.images.remove(this.#options.spec.machine);
    } catch (error) {
      this.#image = image;
      throw error;
    }
    await this.removeRest().catch((error: unknown) => this.#options.log(String(error)));
  }

  /** Files that belong to no image. */
  async removeRest(): Promise<void> {
    await this.#options.images.removeRest(this.#options.spec.machine);
  }

  /** The steps up to the commit. Undoes them when one fails. */
  async #save(guest: RunningGuest, { mustSync, ...facts }: SuspensionFacts): Promise<void> {
    const { spec, disks, images, user, diskKey, log } = this.#options;
    const { qemu, agent } = guest;
    const { signal } = this.#cancelled;
    const ended = new AbortController();
    try {
      // Seen in review: a guest that had been adopted stopped was sent `cont` while its memory was copied.
      await guest.going;
      await images.begin(spec.machine);
      guest.hold(true);
      await disks.setWait(spec.machine, SUSPEND_WAIT_MS);
      if (mustSync && agent !== undefined) await Promise.race([syncGuest(agent, log), stopOf(qemu, ended.signal)]);
      const parts = await saveMachine(qemu, { spec, user, images, diskKey, signal });
      const isInFirmware = await guest.isInFirmware();
      this.#assertSuspending();
      const image: MemoryImage = {
        format: 2,
        machine: spec.machine,
        spec,
        suspendedAtMs: Date.now(),
        ...facts,
        machineType: MACHINE_TYPES[spec.description.chipset],
        cpuModel: CPU_MODEL,
        ...parts,
        ...(isInFirmware ? { isInFirmware } : {}),
        layers: null,
      };
      await images.commit(image);
      this.#assertSuspending();
      this.#image = image;
    } catch (error) {
      log(`${spec.machine}: not suspended: ${String(error)}`);
      await this.#removeImage(qemu);
      await images.removeRest(spec.machine).catch((failure: unknown) => log(String(failure)));
      if (await hasEnded(qemu)) {
        if (!this.#options.isSuspending()) throw this.#stopped();
        throw new CollectiveError('local-io', `${spec.machine}: ${MEMORY_IS_LOST}`, { cause: error });
      }
      await this.#goOn(guest).catch((failure: unknown) => log(`${spec.machine}: ${String(failure)}`));
      throw error;
    } finally {
      ended.abort();
    }
  }

  /**
   * Until it is gone, or its guest is: one that ran on beside its image would be resumed, after a crash, with a memory that is older
   * than its disks.
   */
  async #removeImage(qemu: QemuProcess): Promise<void> {
    const { spec, images, isSuspending, log } = this.#options;
    for (let isRemoved = false; !isRemoved && isSuspending() && qemu.ended === undefined;) {
      isRemoved = await images.remove(spec.machine).then(
        () => true,
        async (failure: unknown) => {
          log(`${spec.machine}: its image cannot be removed, and it does not go on before: ${String(failure)}`);
          await delay(ASK_AGAIN_MS);
          return false;
        },
      );
    }
  }

  /** The guest runs on after it could not be saved. */
  async #goOn(guest: RunningGuest): Promise<void> {
    const { spec, disks, next, isSuspending, log } = this.#options;
    const { qemu } = guest;
    await disks.setWait(spec.machine, undefined);
    // Until QEMU answers: one that is silent for longer than a command may take would be `suspending` for ever.
    for (let hasAnswered = false; !hasAnswered;) {
      if (!isSuspending() || qemu.ended !== undefined) return;
      hasAnswered = await endMove(qemu, (text) => log(`${spec.machine}: ${text}`));
    }
    if (!isSuspending()) return;
    guest.hold(false);
    await guest.goOn().catch((error: unknown) => log(`${spec.machine}: ${String(error)}`));
    next({ type: 'not-suspended' });
    await guest.lookAgain();
    guest.wake();
  }

  #assertSuspending(): void {
    if (!this.#options.isSuspending()) throw this.#stopped();
  }

  #stopped(): CollectiveError {
    return new CollectiveError('shutting-down', `${this.#options.spec.machine} was stopped meanwhile`);
  }
}

/**
 * Its process is gone. Seen: one that was killed this moment had no memory to open, its sockets were there still, and it was taken for
 * one that goes on.
 */
const hasEnded = async (qemu: QemuProcess): Promise<boolean> =>
  qemu.ended !== undefined || (await waitForEnd(qemu.identity, qemu.qmp.closed ? END_GRACE_MS : DYING_MS));

/** False when QEMU did not say, after a moment. */
const endMove = async (qemu: QemuProcess, log: (text: string) => void): Promise<boolean> => {
  try {
    await endUnfinishedMove(qemu.qmp);
    return true;
  } catch (error) {
    log(String(error));
    await delay(ASK_AGAIN_MS);
    return false;
  }
};

/** Resolves when the guest stands still by itself: it lacks a block, and its agent will not answer. */
const stopOf = (qemu: QemuProcess, signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    const look = (event: { readonly name: string }): void => {
      if (event.name === 'STOP') resolve();
    };
    qemu.on('qmp', look);
    signal.addEventListener('abort', () => qemu.off('qmp', look), { once: true });
  });
