/** The rank of a joined fetch: the best class that any of its waiters has asked with. It only ever rises. */
import { isBetterClass, type FetchClass, type FetchRank } from '../block-store.js';

export class RaisableRank implements FetchRank {
  #fetchClass: FetchClass;
  readonly #listeners = new Set<() => void>();

  constructor(fetchClass: FetchClass) {
    this.#fetchClass = fetchClass;
  }

  get fetchClass(): FetchClass {
    return this.#fetchClass;
  }

  raise(fetchClass: FetchClass): void {
    if (!isBetterClass(fetchClass, this.#fetchClass)) return;
    this.#fetchClass = fetchClass;
    for (const listener of [...this.#listeners]) listener();
  }

  onRaise(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
