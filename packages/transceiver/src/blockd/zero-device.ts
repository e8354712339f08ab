/** A disk of zeroes: what lies under a disk that nobody published, such as the ephemeral one. Read-only. */
import type { BlockDevice, Extent } from './block-device.js';
import { ReadOnlyDevice } from './read-only-device.js';

export class ZeroDevice extends ReadOnlyDevice implements BlockDevice {
  constructor(byteLength: number) {
    super(byteLength, 'a disk of zeroes');
  }

  tryRead(target: Buffer): boolean {
    target.fill(0);
    return true;
  }

  read(target: Buffer): Promise<void> {
    target.fill(0);
    return Promise.resolve();
  }

  extents(_byteOffset: number, byteLength: number): Extent[] {
    return byteLength === 0 ? [] : [{ byteLength, kind: 'hole' }];
  }

  warm(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}
