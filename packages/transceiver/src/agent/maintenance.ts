/**
 * A maintain session: a machine NAME-maintain of its own (HOME/machines/NAME-maintain), whose system overlay is kept
 * until it is published or discarded, with a fresh user disk. `maintain.json` says of which version it is. It is durable
 * before the machine is started for the first time, and the folder goes as a whole at the end.
 *
 * `isReady`: its guest has been cleaned and has shut down by itself since it last ran; so what lies there may be
 * published. It is taken back, durably, before each start.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Type, type Static } from '@collective/schema';
import {
  CollectiveError,
  digestField,
  documentCodec,
  isApplianceName,
  nameField,
  numberField,
  strictObject,
  type Digest,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const schema = strictObject({
  format: Type.Literal(1),
  appliance: nameField,
  /** What it began as. */
  version: numberField,
  manifest: digestField,
  isReady: Type.Boolean(),
});
const codec = documentCodec(schema, { what: 'maintain.json', bytesMax: 4_096 });
type MaintenanceFile = Static<typeof schema>;

const SUFFIX = '-maintain';
const FILE = 'maintain.json';

/** The machine's name. Errors: `usage` for an appliance whose name leaves no room for it. */
export const maintenanceMachine = (appliance: string): string => {
  const machine = `${appliance}${SUFFIX}`;
  if (!isApplianceName(appliance) || !isApplianceName(machine))
    throw new CollectiveError('usage', `"${appliance}" cannot be maintained: its name has more than 54 characters.`);
  return machine;
};

/** Whether a machine of that name is a maintain session, which `start` does not start. */
export const isMaintenance = async (machinesDirectory: string, machine: string): Promise<boolean> =>
  machine.endsWith(SUFFIX) && (await readIfThere(join(machinesDirectory, machine, FILE))) !== undefined;

export class Maintenance {
  readonly machine: string;
  readonly folder: string;
  #file: MaintenanceFile;

  private constructor(folder: string, machine: string, file: MaintenanceFile) {
    this.folder = folder;
    this.machine = machine;
    this.#file = file;
  }

  /** The one of this appliance that there is. Errors: `malformed`. */
  static async find(machinesDirectory: string, appliance: string): Promise<Maintenance | undefined> {
    const machine = maintenanceMachine(appliance);
    const folder = join(machinesDirectory, machine);
    const bytes = await readIfThere(join(folder, FILE));
    return bytes === undefined ? undefined : new Maintenance(folder, machine, codec.decode(bytes));
  }

  /** Errors: `exists` when an appliance of the machine's name is used here. */
  static async begin(
    machinesDirectory: string,
    of: { readonly appliance: string; readonly version: number; readonly manifest: Digest },
  ): Promise<Maintenance> {
    const machine = maintenanceMachine(of.appliance);
    const folder = join(machinesDirectory, machine);
    if ((await readIfThere(join(folder, 'subscription.json'))) !== undefined)
      throw new CollectiveError(
        'exists',
        `There is an appliance ${machine} on this machine: its folder is in the way.`,
      );
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const maintenance = new Maintenance(folder, machine, { format: 1, ...of, isReady: false });
    await maintenance.#write();
    return maintenance;
  }

  get appliance(): string {
    return this.#file.appliance;
  }

  get version(): number {
    return this.#file.version;
  }

  get manifest(): Digest {
    return this.#file.manifest;
  }

  get isReady(): boolean {
    return this.#file.isReady;
  }

  async setReady(isReady: boolean): Promise<void> {
    if (this.#file.isReady === isReady) return;
    this.#file = { ...this.#file, isReady };
    await this.#write();
  }

  /**
   * Its machine must be at rest. The name goes first: half a folder is never taken for a session, and what a crash leaves
   * in `exportsDirectory` is cleared away with it.
   */
  async remove(exportsDirectory: string): Promise<void> {
    await mkdir(exportsDirectory, { recursive: true, mode: 0o700 });
    const doomed = join(exportsDirectory, `ended-${randomUUID()}`);
    await rename(this.folder, doomed);
    await rm(doomed, { recursive: true, force: true });
  }

  async #write(): Promise<void> {
    await writeDurably(join(this.folder, FILE), codec.encode(this.#file));
  }
}
