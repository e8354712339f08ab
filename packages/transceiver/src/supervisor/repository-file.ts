/** Where blocks come from, kept durably for the supervisor after a crash. The token is left out: it expires, and the agent brings a new one. */
import { CollectiveError, documentCodec, strictObject } from '@collective/shared';
import type { Static } from '@collective/schema';
import { readIfThere, writeDurably } from '../storage/durable-file.js';
import { CONTROL_METHODS } from '../blockd/control/control-protocol.js';

const { origin, pin } = CONTROL_METHODS.repository.properties;
const codec = documentCodec(strictObject({ origin, pin }), { what: 'repository file', bytesMax: 16_384 });

/** As in blockd's protocol. */
export type Repository = Static<typeof CONTROL_METHODS.repository>;

export class RepositoryFile {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async write({ origin, pin }: Repository): Promise<void> {
    const bytes = codec.encode({ origin, ...(pin === undefined ? {} : { pin }) });
    if ((await readIfThere(this.#path))?.equals(bytes) !== true) await writeDurably(this.#path, bytes);
  }

  /** Undefined when nothing is remembered, or nothing that can be read. */
  async read(): Promise<Repository | undefined> {
    try {
      const bytes = await readIfThere(this.#path);
      return bytes === undefined ? undefined : codec.decode(bytes);
    } catch (error) {
      if (error instanceof CollectiveError) return undefined;
      throw error;
    }
  }
}
