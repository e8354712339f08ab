/** Patterns of foreign suites (qemu-iotests, blktests, fio's verify modes) and libnbd's other tools against our NBD server. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DISK_BYTES, NbdFixture, type Serving } from './nbd-fixture.js';

const SERVINGS: readonly Serving[] = [
  { kind: 'overlay', koffi: true },
  { kind: 'overlay', koffi: false },
];

/** The kinds of requests of qemu-iotests' io patterns, around boundaries that matter to us. */
const BOUNDARIES = [512, 4096, 65_536, 1 << 20, 16 << 20, 32 << 20] as const;

const patternCommands = (boundary: number, seed: number): string[] => {
  const pattern = (step: number): string => `0x${(1 + ((seed * 16 + step) % 254)).toString(16)}`;
  const [before, after] = [boundary - 300, boundary + 300];
  return [
    `write -P ${pattern(1)} ${boundary - 512} 512`,
    `write -P ${pattern(2)} ${boundary} 512`,
    `read -P ${pattern(1)} ${boundary - 512} 512`,
    `read -P ${pattern(2)} ${boundary} 512`,
    `write -P ${pattern(3)} ${before} 600`,
    `read -P ${pattern(3)} ${before} 600`,
    `read -P ${pattern(1)} ${boundary - 512} 212`,
    `read -P ${pattern(2)} ${after} 212`,
    `writev -P ${pattern(4)} ${boundary + 4096} 512 1024 4096 512`,
    `readv -P ${pattern(4)} ${boundary + 4096} 1536 4608`,
    `write -z ${boundary + 4196} 1000`,
    `read -P 0 ${boundary + 4196} 1000`,
    `write -z -u ${boundary + 5300} 512`,
    `read -P 0 ${boundary + 5300} 512`,
    `read -P ${pattern(4)} ${boundary + 5812} 100`,
    `discard ${boundary + 4096} 6144`,
    `read -P 0 ${boundary + 4096} 6144`,
    `aio_write -P ${pattern(5)} ${boundary + 16_384} 32k`,
    `aio_write -f -P ${pattern(6)} ${boundary + 65_536} 32k`,
    `aio_write -z ${boundary + 131_072} 32k`,
    `aio_read -P ${pattern(2)} ${after} 200`,
    'aio_flush',
    `read -P ${pattern(5)} ${boundary + 16_384} 32k`,
    `read -P ${pattern(6)} ${boundary + 65_536} 32k`,
    `read -P 0 ${boundary + 131_072} 32k`,
    'flush',
  ];
};

const FIO_MIXES: readonly (readonly [name: string, words: readonly string[]])[] = [
  [
    'sha256, odd lengths, 16 in flight',
    ['--rw=randrw', '--bsrange=512-128k', '--bs_unaligned=1', '--verify=sha256', '--iodepth=16'],
  ],
  [
    'a pattern that says where it belongs, backlog of 64',
    ['--rw=randwrite', '--bs=4k', '--verify=pattern', '--verify_pattern=%o', '--verify_backlog=64', '--iodepth=64'],
  ],
  ['sequential with trims beside', ['--rw=trimwrite', '--bs=16k', '--verify=crc32c', '--iodepth=16']],
  [
    'md5 at an offset of the first sector',
    ['--rw=randrw', '--bs=8k', '--offset=512', '--verify=md5', '--iodepth=1', '--verify_interval=512'],
  ],
  ['a flush after each eighth write', ['--rw=randwrite', '--bs=2k', '--fsync=8', '--verify=xxhash', '--iodepth=16']],
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

  it('qemu-io: patterns over every boundary of sector, granule, block and map page, and the last bytes of the disk', async () => {
    const commands = BOUNDARIES.flatMap((boundary, seed) => patternCommands(boundary, seed));
    commands.push(`write -P 0x77 ${DISK_BYTES - 700} 700`, `discard ${DISK_BYTES - 512} 512`);
    commands.push(`read -P 0x77 ${DISK_BYTES - 700} 188`, `read -P 0 ${DISK_BYTES - 512} 512`);
    const output = await disk.run('qemu-io', '-f', 'raw', ...commands.flatMap((command) => ['-c', command]), disk.uri);
    expect(output).not.toMatch(/Pattern verification failed|error|failed/i);
    // Every command of a boundary, and those of the end, have said what they did.
    expect(output.match(/^(wrote|read|discard) /gm)?.length).toBe(BOUNDARIES.length * 24 + 4);
  });

  it('libnbd: powers of two, the end of the disk, overlapping writes, flush storms, disconnects and two connections', async () => {
    expect(await disk.python('nbd_patterns.py', disk.image)).toMatch(/^ok: powers of two, .*two connections/);
  });

  it.each(FIO_MIXES)('fio: %s', async (_, words) => {
    await disk.run(
      ...([
        'fio',
        '--name=mix',
        '--ioengine=nbd',
        `--uri=${disk.uri}`,
        '--size=24m',
        '--io_size=12m',
        ...words,
      ] as const),
      ...['--verify_fatal=1', '--verify_state_save=0', '--randseed=11'],
    );
  });

  it('fio: two connections at once, each verifying its own half', async () => {
    const half = '20m';
    await disk.run(
      ...(['fio', '--ioengine=nbd', `--uri=${disk.uri}`, '--rw=randrw', '--bs=4k', '--verify=crc32c'] as const),
      ...['--verify_fatal=1', '--verify_state_save=0', '--iodepth=16', `--size=${half}`, '--io_size=8m'],
      ...['--name=first', '--offset=0', '--name=second', `--offset=${half}`],
    );
  });

  it('nbdcopy copies between two of our servers with holes and flush, nbddump and the map see the same bytes', async () => {
    const other = await NbdFixture.open({ kind: 'file', koffi: serving.koffi });
    try {
      await writeFile(join(disk.folder, 'zero.raw'), Buffer.alloc(1 << 20));
      await other.run(
        'nbdcopy',
        '--destination-is-zero',
        '--flush',
        '--allocated',
        disk.uri,
        join(disk.folder, 'copy.raw'),
      );
      expect((await readFile(join(disk.folder, 'copy.raw'))).equals(disk.content)).toBe(true);
      await other.run('qemu-io', '-f', 'raw', '-c', 'write -P 0x42 3M 5M', '-c', 'discard 30M 4M', disk.uri);
      await other.run('nbdcopy', '--flush', '--connections=4', '--requests=16', disk.uri, other.uri);
      await other.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', disk.uri, other.uri);
      const dump = await disk.run('nbddump', '-n', '64', disk.uri);
      expect(dump.toLowerCase()).toContain(
        [...disk.content.subarray(16, 32)]
          .map((byte) => byte.toString(16).padStart(2, '0'))
          .join(' ')
          .slice(0, 23),
      );
      const totals = await disk.run('nbdinfo', '--map', '--totals', disk.uri);
      expect(totals).toMatch(serving.koffi ? /hole,zero/ : /100\.0%.*data/); // without koffi a hole cannot be asked for
    } finally {
      await other.close();
    }
  });
});
