/**
 * What a device that nobody writes to answers to writes: that there is nothing to publish or to flush, and `read-only` to everything else. A
 * snapshot, an image, a view of layers and a disk of zeroes are one, and add where their bytes come from.
 */
import { CollectiveError } from '@collective/shared';

export class ReadOnlyDevice {
  readonly byteLength: number;
  readonly readOnly = true;
  readonly #what: string;

  /** `what`: for the refusal's message, "… is read-only". */
  constructor(byteLength: number, what: string) {
    this.byteLength = byteLength;
    this.#what = what;
  }

  tryWrite(): boolean {
    return false;
  }

  write(): Promise<void> {
    return this.#refuse();
  }

  publishWrites(): void {}

  flush(): Promise<void> {
    return Promise.resolve();
  }

  trim(): Promise<void> {
    return this.#refuse();
  }

  zero(): Promise<void> {
    return this.#refuse();
  }

  #refuse(): Promise<never> {
    return Promise.reject(new CollectiveError('read-only', `${this.#what} is read-only`));
  }
}
