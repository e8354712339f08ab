/** Reads and writes machine records; written durably before the guest's first instruction runs. */
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { documentCodec } from '@collective/shared';
import { readIfThere, removeIfThere, writeDurably } from '../storage/durable-file.js';
import { type MachineRecord, machineRecordSchema } from './machine-spec.js';

const RECORD_BYTES_MAX = 256 << 10;
const codec = documentCodec(machineRecordSchema, { what: 'machine record', bytesMax: RECORD_BYTES_MAX });

export class MachineRecords {
  readonly #machinesDirectory: string;

  constructor(machinesDirectory: string) {
    this.#machinesDirectory = machinesDirectory;
  }

  async write(record: MachineRecord): Promise<void> {
    await mkdir(join(this.#machinesDirectory, record.spec.machine), { recursive: true, mode: 0o700 });
    await writeDurably(this.#path(record.spec.machine), codec.encode(record));
  }

  async remove(machine: string): Promise<void> {
    await removeIfThere(this.#path(machine));
  }

  /** All records; one that cannot be read is told to `onBad` and left where it is. */
  async list(onBad: (machine: string, error: unknown) => void): Promise<MachineRecord[]> {
    const records: MachineRecord[] = [];
    for (const machine of await readdir(this.#machinesDirectory)) {
      try {
        const bytes = await readIfThere(this.#path(machine));
        if (bytes !== undefined) records.push(codec.decode(bytes));
      } catch (error) {
        onBad(machine, error);
      }
    }
    return records;
  }

  #path(machine: string): string {
    return join(this.#machinesDirectory, machine, 'machine.json');
  }
}
