/** Counts failed attempts to fetch a block, by kind (faults.ts). Below retry, so that it sees each of them. */
import { CollectiveError } from '@collective/shared';
import type { BlockRequest, BlockStore, GetOptions } from '../block-store.js';
import { faultOfFetch, type FaultCounters } from '../faults.js';

export class FaultCountingStore implements BlockStore {
  readonly #next: BlockStore;
  readonly #faults: FaultCounters;

  constructor(next: BlockStore, faults: FaultCounters) {
    this.#next = next;
    this.#faults = faults;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    try {
      return await this.#next.get(request, options);
    } catch (error) {
      const fault = error instanceof CollectiveError ? faultOfFetch(error) : undefined;
      if (fault !== undefined) this.#faults.count(fault);
      throw error;
    }
  }
}
