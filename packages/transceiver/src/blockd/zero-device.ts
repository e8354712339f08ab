/** A disk of zeroes: what lies under a disk that nobody published, such as the ephemeral one. Read-only. */
import { CollectiveError } from '@collective/shared';
import type { BlockDevice, Extent } from './block-device.js';

export class ZeroDevice implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly = true;

  constructor(byteLength: number) {
    this.byteLength = byteLength;
  }

  tryRead(target: Buffer): boolean {
    target.fill(0);
    return true;
  }

  read(target: Buffer): Promise<void> {
    target.fill(0);
    return Promise.resolve();
  }

  tryWrite(): boolean {
    return false;
  }

  write(): Promise<void> {
    return refuse();
  }

  publishWrites(): void {}

  flush(): Promise<void> {
    return Promise.resolve();
  }

  trim(): Promise<void> {
    return refuse();
  }

  zero(): Promise<void> {
    return refuse();
  }

  extents(_byteOffset: number, byteLength: number): Extent[] {
    return byteLength === 0 ? [] : [{ byteLength, kind: 'hole' }];
  }

  warm(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}

const refuse = (): Promise<never> => Promise.reject(new CollectiveError('read-only', 'a disk of zeroes is read-only'));
