/** Publishing to a real repository server: new, next, conflict, interrupted, and images that must be refused. */
import { copyFile, open, truncate, writeFile, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Child, run, runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { BLOCK_BYTES, writeImage } from './disk-images.js';
import { homeHash } from './home-hash.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

let fixture: RepositoryFixture;
let publisher: Person;
let folder: string;
const image = (name: string): string => path.join(folder, name);
const publish = (name: string, disk: string, ...more: readonly string[]): readonly string[] => [
  'publish',
  name,
  '--disk',
  `system=${disk}`,
  '--no-boot-test',
  ...more,
];

beforeAll(async () => {
  fixture = await RepositoryFixture.open();
  publisher = await Person.temporary();
  folder = await mkdtemp(path.join(os.tmpdir(), 'images-'));
  await publisher.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await writeImage(image('a.raw'), 512, (index) => (index % 4 === 3 ? 0 : 1 + (index % 200)));
});
afterAll(async () => {
  await publisher[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

it('without a place in the trust file it is refused, and says what the administrator must run', async () => {
  const error = errorOf(await publisher.run([...publish('demo', image('a.raw')), '--json']));
  expect(error).toMatchObject({ code: 'not-allowed', exitCode: 4 });
  expect(error.message).toContain('collective-repository trust allow DIR pat demo');
  await fixture.server.allow('pat', 'demo', 'other', 'formats');
});

it('a new appliance is published, and appears in the list', async () => {
  const reply = await publisher.json(publish('demo', image('a.raw'), '--title', 'A demo'));
  expect(reply).toMatchObject({ name: 'demo', version: 1, changedBlocks: 384 });
  const { appliances } = await publisher.json(['appliances']);
  expect(appliances).toMatchObject([{ name: 'demo', title: 'A demo', latest: 1, access: 'publish', seen: 1 }]);
});

it('the next version sends what changed and no more', async () => {
  await copyFile(image('a.raw'), image('b.raw'));
  const file = await open(image('b.raw'), 'r+');
  await file.write(Buffer.alloc(BLOCK_BYTES, 0xee), 0, BLOCK_BYTES, 17 * BLOCK_BYTES);
  await file.write(Buffer.alloc(BLOCK_BYTES, 0), 0, BLOCK_BYTES, 21 * BLOCK_BYTES);
  await file.close();
  const reply = await publisher.json(publish('demo', image('b.raw')));
  expect(reply).toMatchObject({ version: 2, changedBlocks: 2 });
  expect(Number(reply['sentBytes'])).toBeLessThan(10_000);
  expect(Number(reply['receivedBytes'])).toBeLessThan(50_000);
});

it('an image in another format gives the same blocks', async () => {
  for (const [format, extra] of [
    ['qcow2', ['-c']],
    ['vmdk', []],
    ['vdi', []],
    ['vhdx', []],
  ] as const) {
    const file = image(`b.${format}`);
    await runOrThrow('qemu-img', ['convert', '-f', 'raw', '-O', format, ...extra, image('b.raw'), file]);
    const reply = await publisher.json(publish('demo', file));
    expect(reply, format).toMatchObject({ changedBlocks: 0 });
  }
});

it('two publishers of one version: one wins, the other is told and can go on', async () => {
  await using second = await Person.temporary();
  await second.login(await fixture.server.invite('sam', 'publisher', { appliances: ['demo:publish'] }), 'sam');
  await fixture.server.allow('sam', 'demo');
  await writeImage(image('c.raw'), 512, (index) => 3 + (index % 100));
  await writeImage(image('d.raw'), 512, (index) => 5 + (index % 100));
  const results = await Promise.all([
    publisher.run([...publish('demo', image('c.raw')), '--json']),
    second.run([...publish('demo', image('d.raw')), '--json']),
  ]);
  const lost = results.filter((result) => result.code !== 0);
  for (const result of lost) {
    expect(errorOf(result)).toMatchObject({ code: 'conflict', exitCode: 6 });
    expect(errorOf(result).message).toContain('publish again');
  }
  expect(lost.length).toBeLessThanOrEqual(1);
  const again = await (results[0]?.code === 0 ? second : publisher).json(
    publish('demo', results[0]?.code === 0 ? image('d.raw') : image('c.raw')),
  );
  expect(again['version']).toBeGreaterThan(6);
});

it('a publish that was killed is continued: server, agent, then command', async () => {
  await writeImage(image('big.raw'), 4096, (index) => 1 + (index % 250));
  const whole = 4096 * BLOCK_BYTES;
  let isThrough = false;
  for (const who of ['server', 'agent', 'command'] as const) {
    const { pid } = (await publisher.json(['status']))['agent'] as { pid: number };
    const child = publisher.spawn(publish('other', image('big.raw')));
    await child.waitFor(/Sending what the repository lacks/);
    if (who === 'server') await fixture.server.restart();
    else if (who === 'agent') process.kill(pid, 'SIGKILL');
    else child.kill('SIGKILL');
    const { code } = await child.exit();
    // It may have been through before it was hit; then there is nothing to continue.
    isThrough = code === 0;
    if (isThrough) break;
    const { appliances } = await publisher.json(['appliances']);
    expect((appliances as { name: string }[]).map(({ name }) => name)).not.toContain('other');
  }
  if (!isThrough) {
    const reply = await publisher.json(publish('other', image('big.raw')));
    expect(reply).toMatchObject({ version: 1, changedBlocks: 4096 });
    expect(Number(reply['sentBytes'])).toBeLessThan(whole);
  }
});

it('images that cannot be used are refused, and nothing changes', async () => {
  await publisher.json(publish('formats', image('a.raw')));
  const refused = async (file: string, code: string, ...words: readonly string[]): Promise<string> => {
    const before = await homeHash(publisher.home);
    const error = errorOf(await publisher.run([...publish('formats', file), ...words, '--json']));
    expect(error, file).toMatchObject({ code });
    expect(await homeHash(publisher.home)).toBe(before);
    return error.message;
  };
  await runOrThrow('qemu-img', ['convert', '-O', 'qcow2', image('a.raw'), image('cut.qcow2')]);
  await truncate(image('cut.qcow2'), 5_000_000);
  await refused(image('cut.qcow2'), 'bad-image');
  await copyFile(image('b.vdi'), image('cut.vdi'));
  await truncate(image('cut.vdi'), 5_000_000);
  expect(await refused(image('cut.vdi'), 'bad-image')).toContain('cut off');
  await copyFile(image('a.raw'), image('odd.raw'));
  await truncate(image('odd.raw'), 1_000_001);
  await refused(image('odd.raw'), 'bad-image');
  // A partition table that ends behind the file.
  await copyFile(image('a.raw'), image('mbr.raw'));
  const mbr = await open(image('mbr.raw'), 'r+');
  const sector = Buffer.alloc(512);
  sector.writeUInt8(0x83, 450);
  sector.writeUInt32LE(2048, 454);
  sector.writeUInt32LE(200_000, 458);
  sector.writeUInt16LE(0xaa55, 510);
  await mbr.write(sector, 0, 512, 0);
  await mbr.close();
  expect(await refused(image('mbr.raw'), 'bad-image')).toContain('partitions end');
  await runOrThrow('qemu-img', ['create', '-f', 'qcow2', image('huge.qcow2'), '17T']);
  expect(await refused(image('huge.qcow2'), 'bad-image')).toContain('16 TiB');
  await runOrThrow('qemu-img', [
    'create',
    '-f',
    'qcow2',
    '-b',
    '/etc/passwd',
    '-F',
    'raw',
    image('backing.qcow2'),
    '1M',
  ]);
  expect(await refused(image('backing.qcow2'), 'bad-image')).toContain('backing file');
  await runOrThrow('qemu-img', [
    'create',
    '-f',
    'qcow2',
    '-o',
    `data_file=${image('data')},data_file_raw=on`,
    image('external.qcow2'),
    '1M',
  ]);
  expect(await refused(image('external.qcow2'), 'bad-image')).toContain('external data file');
  await runOrThrow('qemu-img', [
    'convert',
    '-O',
    'vmdk',
    '-o',
    'subformat=monolithicFlat',
    image('a.raw'),
    image('flat.vmdk'),
  ]);
  expect(await refused(image('flat.vmdk'), 'bad-image')).toContain('another file');
  await writeFile(image('empty'), '');
  await refused(image('empty'), 'bad-image');
  await refused(image('nothing'), 'not-found');
  expect(
    ((await publisher.json(['appliances']))['appliances'] as { name: string; latest: number }[]).find(
      ({ name }) => name === 'formats',
    )?.latest,
  ).toBe(1);
});

it('an image that another program writes is refused', async () => {
  const file = image('busy.qcow2');
  await runOrThrow('qemu-img', ['convert', '-O', 'qcow2', image('a.raw'), file]);
  await using writer = new Child('qemu-nbd', 'qemu-nbd', [
    '--persistent',
    '-f',
    'qcow2',
    '-k',
    image('busy.sock'),
    file,
  ]);
  await eventually('qemu-nbd has the image', 120_000, async () =>
    (await run('nbdinfo', [`nbd+unix:///?socket=${image('busy.sock')}`])).code === 0 ? true : undefined,
  );
  expect(writer.running).toBe(true);
  expect(errorOf(await publisher.run([...publish('formats', file), '--json']))).toMatchObject({
    code: 'in-use',
    exitCode: 6,
  });
});

it('a machine description that names a host path, or anything unknown, is refused', async () => {
  const machine = {
    memoryBytes: 1_073_741_824,
    cpus: 1,
    chipset: 'q35',
    firmware: 'bios',
    network: 'none',
    display: 'none',
    guestAgent: false,
    clock: 'utc',
  };
  const before = await homeHash(publisher.home);
  for (const hostile of [
    { ...machine, firmware: '/etc/shadow' },
    { ...machine, kernel: '/boot/vmlinuz' },
    { ...machine, cpus: 4096 },
    { ...machine, memoryBytes: 2 ** 50 },
    { format: 1, machine: { ...machine, network: 'tap,script=/bin/sh' }, disks: [] },
    { format: 1, machine, disks: [{ name: 'system', kind: 'system', bus: 'virtio', file: '/etc/shadow' }] },
  ]) {
    await writeFile(image('machine.json'), JSON.stringify(hostile));
    const error = errorOf(
      await publisher.run([...publish('formats', image('a.raw')), '--machine', image('machine.json'), '--json']),
    );
    expect(error, JSON.stringify(hostile)).toMatchObject({ code: 'bad-machine', exitCode: 9 });
  }
  expect(await homeHash(publisher.home)).toBe(before);
});

it('the repository finds nothing wrong afterwards', async () => {
  const { COLLECTIVE_REPOSITORY } = await import('../support/paths.js');
  const result = await run(process.execPath, [COLLECTIVE_REPOSITORY, 'check', fixture.folder]);
  expect(result.code, result.stdout + result.stderr).toBe(0);
  expect((await stat(path.join(fixture.folder, 'appliances'))).isDirectory()).toBe(true);
  expect(await readFile(path.join(fixture.folder, 'appliances', 'other', 'latest'), 'utf8')).toBe('1\n');
});
