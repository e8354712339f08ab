/** Our NBD server judged by programs that we did not write: libnbd's tools, qemu-img, qemu-io, fio. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DISK_BYTES, NbdFixture, type Serving } from './nbd-fixture.js';

const SERVINGS: readonly Serving[] = [
  { kind: 'file', koffi: true },
  { kind: 'overlay', koffi: true },
  { kind: 'overlay', koffi: false },
];

describe.each(SERVINGS)('served as $kind, koffi $koffi', (serving) => {
  let disk: NbdFixture;
  beforeEach(async () => {
    disk = await NbdFixture.open(serving);
  });
  afterEach(async () => {
    await disk.close();
    expect(disk.errors).toBe('');
  });

  it('nbdinfo sees one export with its size, block sizes and abilities, and a map that covers the disk', async () => {
    const info: unknown = JSON.parse(await disk.run('nbdinfo', '--json', disk.uri));
    expect(info).toMatchObject({
      protocol: 'newstyle-fixed',
      structured: true,
      exports: [
        {
          'export-name': 'disk',
          'export-size': DISK_BYTES,
          contexts: ['base:allocation'],
          is_read_only: false,
          can_multi_conn: true,
          can_trim: true,
          can_zero: true,
          block_size_minimum: 1,
          block_size_preferred: 4096,
          block_size_maximum: 32 << 20,
        },
      ],
    });
    expect(await disk.run('nbdinfo', '--list', disk.uri)).toContain('export="disk"');
    const map: unknown = JSON.parse(await disk.run('nbdinfo', '--map', '--json', disk.uri));
    const lengths = Array.isArray(map) ? map.map((extent: unknown) => Number(Object(extent)['length'])) : [];
    expect(lengths.reduce((sum, length) => sum + length, 0)).toBe(DISK_BYTES);
  });

  it('libnbd reads and writes at odd places, gets errors for bad requests, and the connection lives', async () => {
    expect(await disk.python('nbd_checks.py', disk.image)).toMatch(/^ok/);
    const model = `${disk.image}.model`;
    await disk.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', model, disk.uri);
    // What was written is there after a restart of the server as well.
    await disk.stop();
    await disk.start();
    await disk.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', model, disk.uri);
  });

  it('nbdcopy copies out and in, with several connections, the same bytes', async () => {
    const copy = join(disk.folder, 'copy.raw');
    await disk.run('nbdcopy', disk.uri, copy);
    expect((await readFile(copy)).equals(disk.content)).toBe(true);
    const other = Buffer.from(disk.content).reverse();
    await writeFile(copy, other);
    await disk.run('nbdcopy', '--flush', copy, disk.uri);
    await disk.run('nbdcopy', '--no-extents', '--connections=1', '--requests=4', disk.uri, copy);
    expect((await readFile(copy)).equals(other)).toBe(true);
  });

  it('qemu-img compares, converts both ways and maps', async () => {
    const copy = join(disk.folder, 'copy.qcow2');
    await disk.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', disk.image, disk.uri);
    await disk.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', disk.uri, copy);
    await disk.run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', copy, disk.uri);
    const map: unknown = JSON.parse(await disk.run('qemu-img', 'map', '--output=json', '-f', 'raw', disk.uri));
    const ends = Array.isArray(map)
      ? map.map((part: unknown) => Number(Object(part)['start']) + Number(Object(part)['length']))
      : [];
    expect(Math.max(...ends)).toBe(DISK_BYTES);
    // In: qemu-img trims, zeroes and writes with many requests in flight.
    await disk.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 0x31 1M 5M', '-c', 'write -z 20M 8M', copy);
    await disk.run('qemu-img', 'convert', '-n', '-f', 'qcow2', '-O', 'raw', copy, disk.uri);
    await disk.run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', copy, disk.uri);
    await rm(copy);
  });

  it('qemu-io writes, zeroes and discards at odd places and reads the patterns back', async () => {
    const commands = [
      'write -P 0xa1 513 1023',
      'write -P 0xa2 4096 8192',
      'write -f -P 0xa3 1000000 77',
      'aio_write -P 0xa4 2M 1M',
      'aio_write -P 0xa5 4M 1M',
      'aio_flush',
      'write -z 2M 4k',
      'write -z -u 3000000 100000',
      'discard 4M 512k',
      'flush',
      'read -P 0xa1 513 1023',
      'read -P 0xa2 4096 8192',
      'read -P 0xa3 1000000 77',
      'read -P 0 2M 4k',
      'read -P 0xa4 2101248 800000',
      'read -P 0 3000000 100000',
      'read -P 0 4M 512k',
      'read -P 0xa5 4718592 512k',
      `write -P 0xa6 ${DISK_BYTES - 1000} 1000`,
      `read -P 0xa6 ${DISK_BYTES - 1000} 1000`,
    ];
    const output = await disk.run('qemu-io', '-f', 'raw', ...commands.flatMap((command) => ['-c', command]), disk.uri);
    expect(output).not.toMatch(/Pattern verification failed|error/i);
  });

  it.each([1, 16, 64])('fio finds every byte again with %i in flight', async (depth) => {
    await disk.run(
      ...(['fio', '--name=verify', '--ioengine=nbd', `--uri=${disk.uri}`, '--rw=randrw', '--rwmixread=40'] as const),
      ...['--bssplit=512/15:1k/10:4k/45:16k/15:64k/10:132k/5', '--bs_unaligned=0', `--iodepth=${depth}`, '--size=44m'],
      ...[
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_state_save=0',
        '--verify_backlog=256',
        '--randseed=7',
        '--io_size=40m',
      ],
    );
    await disk.run(
      ...(['fio', '--name=trims', '--ioengine=nbd', `--uri=${disk.uri}`, '--rw=randtrimwrite', '--bs=4k'] as const),
      ...[
        `--iodepth=${depth}`,
        '--size=44m',
        '--io_size=16m',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_state_save=0',
      ],
    );
  });
});
