/**
 * A guest's reads of blocks that are not here: one block each, at random intervals, never two at a time. They lie apart from each other: a read of the
 * block after one that was read lets more be read ahead.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { COMMAND } from '@collective/transceiver';
import { NbdPlayerClient } from '../trace-player/nbd-player-client.js';
import type { Seeded } from '../dirty/seeded.js';
import { BLOCK_BYTES } from './random-chunks.js';

/** From one that is read to the next. */
export const SPREAD = 4;

export class DemandReads implements Disposable {
  readonly #client: NbdPlayerClient;
  readonly #random: Seeded;
  /** Not read yet, in no order. */
  readonly #blocks: number[];
  #answered: (failed: boolean) => void = () => undefined;

  private constructor(client: NbdPlayerClient, blocks: number[], random: Seeded) {
    this.#client = client;
    this.#blocks = blocks;
    this.#random = random;
    client.listen(
      (_, failed) => this.#answered(failed),
      () => this.#answered(true),
    );
  }

  static async open(socket: string, blockCount: number, random: Seeded): Promise<DemandReads> {
    const blocks = Array.from({ length: blockCount }, (_, index) => index * SPREAD);
    for (let at = blocks.length - 1; at > 0; at -= 1) {
      const other = random.integer(0, at);
      [blocks[at], blocks[other]] = [blocks[other] ?? 0, blocks[at] ?? 0];
    }
    return new DemandReads(await NbdPlayerClient.open(socket), blocks, random);
  }

  /** So many, one after the other, each a random pause (exponential) after the one before; how long each took, in ms. */
  async read(count: number, meanPauseMs: number): Promise<number[]> {
    const took: number[] = [];
    for (let number = 0; number < count; number += 1) {
      await sleep(this.#random.exponential(meanPauseMs, { least: 0, most: 8 * meanPauseMs }));
      const block = this.#blocks.pop();
      if (block === undefined) throw new Error('there are no more blocks to read');
      const beganMs = performance.now();
      const failed = await new Promise<boolean>((resolve) => {
        this.#answered = resolve;
        const request = { command: COMMAND.read, flags: 0, byteOffset: block * BLOCK_BYTES, byteLength: BLOCK_BYTES };
        this.#client.send(number, request);
      });
      if (failed) throw new Error(`the read of block ${block} failed`);
      took.push(performance.now() - beganMs);
    }
    return took;
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}
