/**
 * The keys of a person's epochs, as blockd has them: for the names of private blocks, and for their chunks (private-decoder.ts). A block is named by the key of
 * the epoch in which it was written, and nothing says by which: they are tried, the newest first.
 *
 * Keys come as text in control messages and are in no answer, event or log.
 */
import { base64urlField, numberField, privateBlockDigest, strictObject, type Digest } from '@collective/shared';
import { createHmac } from 'node:crypto';
import { type Static, Type } from '@collective/schema';
import { type BlockNaming, NAME_PREFIX_BYTES } from '../cache/block-naming.js';

export const BLOCK_KEYS_MAX = 256;

/** As messages have them. */
export const blockKeysField = Type.Array(
  strictObject({ epoch: numberField, blockNameKey: base64urlField(32), chunkKey: base64urlField(32) }),
  { maxItems: BLOCK_KEYS_MAX },
);
export type BlockKeys = Static<typeof blockKeysField>;

export type Epoch = { readonly epoch: number; readonly blockNameKey: Buffer; readonly chunkKey: Buffer };

export class BlockKeyRing implements BlockNaming {
  #epochs: readonly Epoch[] = [];

  constructor(keys: BlockKeys = []) {
    this.add(keys);
  }

  /** As messages have them, the newest first. */
  get keys(): BlockKeys {
    return this.#epochs.map(({ epoch, blockNameKey, chunkKey }) => ({
      epoch,
      blockNameKey: blockNameKey.toString('base64url'),
      chunkKey: chunkKey.toString('base64url'),
    }));
  }

  get isEmpty(): boolean {
    return this.#epochs.length === 0;
  }

  /** Takes these over those that it has of the same epochs. The oldest go where there are too many. */
  add(keys: BlockKeys): void {
    const epochs = new Map(this.#epochs.map((each) => [each.epoch, each]));
    for (const { epoch, blockNameKey, chunkKey } of keys)
      epochs.set(epoch, {
        epoch,
        blockNameKey: Buffer.from(blockNameKey, 'base64url'),
        chunkKey: Buffer.from(chunkKey, 'base64url'),
      });
    this.#epochs = [...epochs.values()].sort((a, b) => b.epoch - a.epoch).slice(0, BLOCK_KEYS_MAX);
  }

  /** Undefined: its keys are not here. */
  of(epoch: number): Epoch | undefined {
    return this.#epochs.find((each) => each.epoch === epoch);
  }

  isNamed(block: Uint8Array, digest: Digest): boolean {
    return this.#epochs.some(({ blockNameKey }) => privateBlockDigest(blockNameKey, block) === digest);
  }

  beginsWith(block: Uint8Array, prefix: Uint8Array): boolean {
    return this.#epochs.some(
      ({ blockNameKey }) =>
        createHmac('sha256', blockNameKey)
          .update(block)
          .digest()
          .compare(prefix, 0, NAME_PREFIX_BYTES, 0, NAME_PREFIX_BYTES) === 0,
    );
  }
}
