/** What the block daemon has complained of lately, for `status`: one of a kind for each disk, until it has not been said again for a while. */

/** `not-logged-in`: blocks are refused. */
export type BlockdTrouble = {
  readonly code: 'disk-full' | 'not-logged-in';
  readonly machine?: string;
  readonly disk?: string;
  readonly message: string;
  readonly atMs: number;
};

/** A trouble that has not been told again for so long is over. */
const TROUBLE_MS = 60_000;

export class BlockdTroubles {
  readonly #troubles = new Map<string, BlockdTrouble>();

  add(trouble: Omit<BlockdTrouble, 'atMs'>): void {
    const key = `${trouble.code} ${trouble.machine ?? ''}/${trouble.disk ?? ''}`;
    this.#troubles.set(key, { ...trouble, atMs: Date.now() });
  }

  list(): BlockdTrouble[] {
    const nowMs = Date.now();
    for (const [key, { atMs }] of this.#troubles) if (nowMs - atMs > TROUBLE_MS) this.#troubles.delete(key);
    return [...this.#troubles.values()];
  }
}
