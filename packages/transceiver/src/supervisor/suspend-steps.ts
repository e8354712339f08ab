/**
 * What suspending and resuming consist of (ADR 0012), for machine-unit.ts, which decides when.
 *
 *   save   stop · devices' state to a file · memory to a file · both synced · image.json (the commit, by the caller)
 *   load   memory and devices' state into a QEMU that waits for them · both checked against the image
 */
import { randomBytes } from 'node:crypto';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { CollectiveError, sha256, type Digest } from '@collective/shared';
import { assertDiskKey, diskKeyCheck } from '../blockd/overlay/layer-keys.js';
import { findAccelerator } from '../machine/accelerator.js';
import { loadDeviceState, saveDeviceState } from '../machine/device-state.js';
import type { GuestAgent } from '../machine/guest-agent.js';
import { ImageCipher } from '../machine/image-cipher.js';
import { copyMemory, openGuestMemory } from '../machine/guest-memory.js';
import { qemuVersion } from '../machine/programs.js';
import { CPU_MODEL, MACHINE_TYPES } from '../machine/qemu-arguments.js';
import type { QemuProcess } from '../machine/qemu-process.js';
import type { QemuUser } from '../machine/qemu-user.js';
import { field } from '../machine/qmp-client.js';
import { isNoRoom } from '../storage/durable-file.js';
import type { DiskKey } from './disk-keys.js';
import { layersOf, type MemoryImage, type MemoryImages } from './memory-image.js';
import type { MachineSpec } from './machine-spec.js';

/** A guest agent that does not answer so soon is not waited for. */
const AGENT_PING_MS = 300;
const AGENT_FREEZE_MS = 5_000;

/** What of an image only the running QEMU knows. */
type Parts = Pick<
  MemoryImage,
  'generationId' | 'qemuVersion' | 'encryption' | 'ramDigest' | 'deviceBytes' | 'deviceDigest'
>;

/** Everything that the guest has written is on its disks, if its agent answers quickly; else as after a power cut. */
export async function syncGuest(agent: GuestAgent, log: (text: string) => void): Promise<void> {
  if (!(await agent.ping({ timeoutMs: AGENT_PING_MS }))) return;
  await agent.freeze({ timeoutMs: AGENT_FREEZE_MS }).catch((error: unknown) => log(`not synced: ${String(error)}`));
  await agent.thaw({ timeoutMs: AGENT_FREEZE_MS }).catch((error: unknown) => log(`thaw: ${String(error)}`));
}

/**
 * Stops the guest and saves it. Once the devices' state is there, QEMU may be killed without harm: its memory is held open.
 * Errors: `local-io`, `disk-full`, the signal's reason; the guest is still stopped then.
 */
export async function saveMachine(
  qemu: QemuProcess,
  options: {
    readonly spec: MachineSpec;
    readonly user: QemuUser | undefined;
    readonly images: MemoryImages;
    readonly diskKey: DiskKey | undefined;
    readonly signal: AbortSignal;
  },
): Promise<Parts> {
  const { spec, user, images, diskKey, signal } = options;
  const encryption =
    diskKey === undefined
      ? null
      : { imageId: randomBytes(16).toString('hex'), keyCheck: diskKeyCheck(bytesOf(diskKey)) };
  const ciphers = ciphersOf(encryption, diskKey);
  const { qmp, paths } = qemu;
  const { ram, devices } = images.paths(spec.machine);
  const memoryBytes = spec.description.memoryBytes;
  const memory = await openGuestMemory(qemu.identity, { memoryBytes, access: 'read' });
  try {
    const version = field(await qmp.execute('query-version'), 'qemu');
    const generation = field(await qmp.execute('query-vm-generation-id'), 'guid');
    await qmp.execute('stop', {}, { timeoutMs: 15_000 });
    if ((await qmp.queryStatus()).running) throw new CollectiveError('local-io', 'QEMU does not stop');
    const state = await intoFile(devices, (file) =>
      saveDeviceState({ qmp, paths, signal }, { user, file, cipher: ciphers.devices }),
    );
    const ramDigest = await intoFile(ram, async (file) => {
      await file.truncate(memoryBytes);
      return await copyMemory(memory, file, {
        byteLength: memoryBytes,
        encrypt: ciphers.ram,
        isSyncedSoon: true,
        signal,
      });
    });
    return {
      generationId: String(generation),
      qemuVersion: ['major', 'minor', 'micro'].map((part) => String(field(version, part))).join('.'),
      encryption,
      ramDigest,
      deviceBytes: state.byteLength,
      deviceDigest: state.digest,
    };
  } finally {
    await memory.close();
  }
}

/** Into a QEMU that was started to be resumed; it stays stopped. Errors: `cannot-resume` for an image that is damaged, `local-io`. */
export async function loadMachine(
  qemu: QemuProcess,
  options: {
    readonly image: MemoryImage;
    readonly images: MemoryImages;
    readonly diskKey: DiskKey | undefined;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { image, images, diskKey, signal } = options;
  const ciphers = ciphersOf(image.encryption, diskKey);
  const { ram, devices } = images.paths(image.machine);
  const memoryBytes = image.spec.description.memoryBytes;
  const state = await readFile(devices);
  if (state.length !== image.deviceBytes || sha256(state) !== image.deviceDigest) throw damaged('the devices');
  ciphers.devices?.apply(state, 0);
  const memory = await openGuestMemory(qemu.identity, { memoryBytes, access: 'write' });
  const file = await open(ram, 'r');
  let found: Digest;
  try {
    found = await copyMemory(file, memory, { byteLength: memoryBytes, decrypt: ciphers.ram, signal });
  } finally {
    await file.close();
    await memory.close();
  }
  if (found !== image.ramDigest) throw damaged('the memory');
  await loadDeviceState({ qmp: qemu.qmp, paths: qemu.paths, signal }, state);
}

/** Everything that must be as it was. Errors: `cannot-resume` with what differs. */
export async function checkResumable(image: MemoryImage): Promise<void> {
  const { spec } = image;
  const now = {
    'QEMU version': [image.qemuVersion, await qemuVersion()],
    'machine type': [image.machineType, MACHINE_TYPES[spec.description.chipset]],
    'processor model': [image.cpuModel, CPU_MODEL],
    accelerator: [image.accelerator, (await findAccelerator(spec.accelerator ?? 'auto')).accelerator],
  };
  for (const [what, [before, after]] of Object.entries(now)) {
    if (before === after) continue;
    throw cannotResume(image.machine, `the ${what} was ${String(before)} and is ${String(after)}`, { what });
  }
  const layers = await layersOf(spec).catch((error: unknown) => {
    throw cannotResume(image.machine, `its disks cannot be read: ${String(error)}`, { what: 'layers' });
  });
  if (image.layers !== null && JSON.stringify(image.layers) !== JSON.stringify(layers))
    throw cannotResume(image.machine, 'its disks have changed since', { what: 'layers' });
}

const bytesOf = (diskKey: DiskKey): Buffer => Buffer.from(diskKey, 'base64url');

/** Error: `wrong-key`. */
function ciphersOf(
  encryption: MemoryImage['encryption'],
  diskKey: DiskKey | undefined,
): { readonly ram: ImageCipher | undefined; readonly devices: ImageCipher | undefined } {
  const key = diskKey === undefined ? undefined : bytesOf(diskKey);
  assertDiskKey(key, encryption?.keyCheck ?? null, 'the memory image');
  if (encryption === null || key === undefined) return { ram: undefined, devices: undefined };
  const { imageId } = encryption;
  return {
    ram: new ImageCipher(key, { imageId, part: 'ram' }),
    devices: new ImageCipher(key, { imageId, part: 'devices' }),
  };
}

const cannotResume = (machine: string, why: string, data: Readonly<Record<string, string>>): CollectiveError =>
  new CollectiveError('cannot-resume', `${machine} cannot be resumed: ${why}`, { data });

const damaged = (what: string): CollectiveError =>
  new CollectiveError('cannot-resume', `The memory image is damaged: ${what}`, { data: { what: 'damage' } });

/** Written, then synced. */
async function intoFile<T>(path: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, 'wx', 0o600);
  try {
    const result = await write(file);
    await file.sync();
    return result;
  } catch (error) {
    if (isNoRoom(error))
      throw new CollectiveError('disk-full', `The local disk has no room for the memory of the machine`, {
        cause: error,
      });
    throw error;
  } finally {
    await file.close();
  }
}
