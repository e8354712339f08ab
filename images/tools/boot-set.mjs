#!/usr/bin/env node
// Measures an appliance's boot set: which blocks of its system disk one boot reads, from power-on to the login
// prompt on the serial console, how many bytes they are compressed, and how long it takes.
//
//   node images/tools/boot-set.mjs DIR [--bus virtio|sata|ide] [--prompt REGEX] [--settle SECONDS] [--runs N]
//                                  [--block-bytes N] [--files] [--console FILE] [--reads FILE] [--accel tcg|kvm] [--timeout SECONDS] [--json]
//
// DIR is what a recipe's build.sh made (appliance.json beside the disks). The system disk is served by nbdkit, whose
// log filter, below a copy-on-write filter, sees exactly the reads that the published disk must answer. Nothing in
// DIR is written. --bus overrides the bus of all disks (ide also changes the chipset to pc). --files names the files
// that the blocks belong to (ext4 in the first MBR partition, by debugfs). --reads writes each read as a line
// "seconds byteOffset byteCount". A compressed size is that of each block
// alone, with zstd level 3. --settle also counts what is read in so many seconds after the prompt. It exits with 1 when the prompt does not come.
//
// A tool for one's own machine: QEMU runs with the caller's rights and is not confined.
import { spawn, execFileSync } from 'node:child_process';
import {
  closeSync,
  createWriteStream,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { compress } from '@cloudpss/zstd';

const BUSES = { virtio: ['virtio-blk-pci'], sata: ['ide-hd'], ide: ['ide-hd'] };
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    bus: { type: 'string' },
    prompt: { type: 'string', default: 'login: ' },
    settle: { type: 'string', default: '0' },
    runs: { type: 'string', default: '1' },
    'block-bytes': { type: 'string', default: '65536' },
    files: { type: 'boolean', default: false },
    console: { type: 'string' },
    reads: { type: 'string' },
    accel: { type: 'string', default: 'tcg' },
    timeout: { type: 'string', default: '120' },
    json: { type: 'boolean', default: false },
  },
});
if (positionals.length !== 1 || (options.bus !== undefined && !(options.bus in BUSES))) {
  console.error(
    'usage: boot-set.mjs DIR [--bus virtio|sata|ide] [--prompt REGEX] [--settle SECONDS] [--runs N] [--block-bytes N] [--files] [--console FILE] [--reads FILE] [--accel tcg|kvm] [--timeout SECONDS] [--json]',
  );
  process.exit(2);
}
const folder = resolve(positionals[0]);
const appliance = JSON.parse(readFileSync(join(folder, 'appliance.json'), 'utf8'));
const systemFile = join(folder, appliance.disks.find((disk) => disk.kind === 'system').file);
const blockBytes = Number(options['block-bytes']);

/** A QEMU option's value: a comma inside it is written twice. */
const quote = (text) => text.replaceAll(',', ',,');

function qemuArguments(scratch) {
  const { machine } = appliance;
  const chipset = options.bus === 'ide' ? 'pc' : options.bus === 'sata' ? 'q35' : machine.chipset;
  const args = [
    '-nodefaults',
    '-no-user-config',
    '-machine',
    chipset,
    '-cpu',
    'max',
    '-accel',
    options.accel === 'tcg' ? 'tcg,thread=single' : options.accel,
    '-m',
    `${machine.memoryBytes / 1048576}`,
    '-smp',
    `${machine.cpus}`,
    '-action',
    'reboot=shutdown',
    '-display',
    'none',
    '-serial',
    'stdio',
    '-device',
    'virtio-rng-pci',
  ];
  if (machine.firmware === 'uefi') {
    const variables = join(scratch, 'vars.fd');
    writeFileSync(variables, readFileSync('/usr/share/OVMF/OVMF_VARS_4M.fd'));
    args.push(
      '-drive',
      'if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd',
      '-drive',
      `if=pflash,format=raw,file=${quote(variables)}`,
    );
  }
  if (machine.display !== 'none') args.push('-device', machine.display === 'vga' ? 'VGA' : 'virtio-vga');
  if (machine.network !== 'none')
    args.push(
      '-netdev',
      'user,id=net0,restrict=on',
      '-device',
      `${machine.network === 'virtio' ? 'virtio-net-pci' : 'e1000'},netdev=net0,romfile=`,
    );
  if (machine.guestAgent) {
    args.push(
      '-device',
      'virtio-serial-pci',
      '-chardev',
      `socket,id=agent,path=${quote(join(scratch, 'agent'))},server=on,wait=off`,
      '-device',
      'virtserialport,chardev=agent,name=org.qemu.guest_agent.0',
    );
  }
  appliance.disks.forEach((disk, index) => {
    const bus = options.bus ?? disk.bus;
    let drive;
    if (disk.kind === 'system') drive = `file=nbd+unix:///?socket=${quote(join(scratch, 'nbd'))},format=raw`;
    else if (disk.kind === 'user') drive = `file=${quote(join(folder, disk.file))},format=raw,snapshot=on`;
    else {
      const blank = join(scratch, disk.name);
      writeFileSync(blank, '');
      truncateSync(blank, disk.diskBytes);
      drive = `file=${quote(blank)},format=raw,cache=unsafe`;
    }
    const [model] = BUSES[bus];
    const slot = bus === 'sata' ? `,bus=ide.${index}` : bus === 'ide' ? `,bus=ide.${index >> 1},unit=${index & 1}` : '';
    args.push(
      '-drive',
      `if=none,id=disk${index},discard=unmap,${drive}`,
      '-device',
      `${model},drive=disk${index},serial=${disk.name}${slot}${disk.kind === 'system' ? ',bootindex=0' : ''}`,
    );
  });
  return args;
}

/** Resolves when the process has ended. */
const ended = (child) =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve()
    : new Promise((done) => child.once('exit', done));

/** Waits until a file exists; the program that makes it may die instead. */
async function appears(file, child, name) {
  while (!existsSync(file)) {
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode} before it listened`);
    await new Promise((next) => setTimeout(next, 10));
  }
}

/** Processor seconds that a process has used: unlike the clock, hardly disturbed by what else the machine does. */
function cpuSecondsOf(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** One boot: the reads as [seconds, byteOffset, byteCount], and the seconds to the prompt. */
async function boot() {
  const scratch = mkdtempSync(join(tmpdir(), 'boot-set-'));
  const children = [];
  try {
    const log = join(scratch, 'log');
    const nbdkit = spawn(
      'nbdkit',
      [
        '--foreground',
        '--unix',
        join(scratch, 'nbd'),
        '--filter=cow',
        '--filter=log',
        'file',
        systemFile,
        `logfile=${log}`,
        'cow-block-size=4096',
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
    children.push(nbdkit);
    await appears(join(scratch, 'nbd'), nbdkit, 'nbdkit');
    const startedAt = Date.now();
    const qemu = spawn('qemu-system-x86_64', qemuArguments(scratch), { stdio: ['pipe', 'pipe', 'inherit'] });
    children.push(qemu);
    const transcript = options.console === undefined ? undefined : createWriteStream(options.console);
    const prompt = new RegExp(options.prompt);
    const seconds = await new Promise((done, fail) => {
      let text = '';
      const timer = setTimeout(
        () =>
          fail(new Error(`no ${prompt} within ${options.timeout} s; the console ended with:\n${text.slice(-2000)}`)),
        Number(options.timeout) * 1000,
      );
      qemu.stdout.on('data', (data) => {
        transcript?.write(data);
        text = (text + data.toString('latin1')).slice(-65536);
        if (!prompt.test(text)) return;
        clearTimeout(timer);
        done((Date.now() - startedAt) / 1000);
      });
      qemu.once('exit', (code) => {
        clearTimeout(timer);
        fail(new Error(`QEMU ended with ${code} before the prompt; the console ended with:\n${text.slice(-2000)}`));
      });
    });
    qemu.removeAllListeners('exit');
    transcript?.end();
    const cpuSeconds = cpuSecondsOf(qemu.pid);
    await new Promise((done) => setTimeout(done, Number(options.settle) * 1000));
    return {
      seconds,
      cpuSeconds,
      reads: parseLog(readFileSync(log, 'utf8'), startedAt, seconds + Number(options.settle)),
    };
  } finally {
    for (const child of children.reverse()) {
      child.kill('SIGKILL');
      await ended(child);
    }
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** nbdkit's log: `2026-01-01 12:00:00.123456 connection=1 Read id=7 offset=0x0 count=0x200 ...`, in UTC. */
function parseLog(text, startedAt, secondsMax) {
  const reads = [];
  for (const match of text.matchAll(
    /^(\S+) (\S+) connection=\d+ (?:Read|Cache) id=\d+ offset=0x([0-9a-f]+) count=0x([0-9a-f]+)/gm,
  )) {
    const seconds = (Date.parse(`${match[1]}T${match[2].slice(0, 12)}Z`) - startedAt) / 1000;
    if (seconds <= secondsMax) reads.push([seconds, parseInt(match[3], 16), parseInt(match[4], 16)]);
  }
  return reads;
}

/** The blocks in the order of their first touch: {block, seconds, compressedBytes}; all-zero blocks cost nothing. */
function bootSet(reads) {
  const first = new Map();
  for (const [seconds, byteOffset, byteCount] of reads) {
    for (let block = Math.floor(byteOffset / blockBytes); block * blockBytes < byteOffset + byteCount; block++) {
      if (!first.has(block)) first.set(block, seconds);
    }
  }
  const file = openSync(systemFile, 'r');
  const buffer = Buffer.alloc(blockBytes);
  const blocks = [];
  for (const [block, seconds] of first) {
    const length = readSync(file, buffer, 0, blockBytes, block * blockBytes);
    const bytes = buffer.subarray(0, length);
    const zero = bytes.every((byte) => byte === 0);
    blocks.push({ block, seconds, zero, compressedBytes: zero ? 0 : Math.min(length, compress(bytes, 3).length) });
  }
  closeSync(file);
  return blocks;
}

/** Compressed bytes by file, largest first: a block's bytes are shared evenly by the file-system blocks read in it. */
function byFile(reads, blocks) {
  const partition = `${systemFile}?offset=1048576`;
  // debugfs reads command lines of at most 8 KiB.
  const debugfs = (command, numbers) => {
    let input = '';
    for (let at = 0; at < numbers.length; at += 500) input += `${command} ${numbers.slice(at, at + 500).join(' ')}\n`;
    return execFileSync('debugfs', ['-f', '-', partition], {
      input,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
  };
  const touched = new Map();
  for (const [, byteOffset, byteCount] of reads) {
    for (let at = Math.floor(byteOffset / 4096); at * 4096 < byteOffset + byteCount; at++) {
      const block = Math.floor((at * 4096) / blockBytes);
      if (!touched.has(block)) touched.set(block, new Set());
      touched.get(block).add(at - 256);
    }
  }
  const inside = [...touched.values()].flatMap((set) => [...set]).filter((at) => at >= 0);
  const inodeOf = new Map();
  for (const line of debugfs('icheck', inside).split('\n')) {
    const match = /^(\d+)\t(\d+)$/.exec(line);
    if (match) inodeOf.set(Number(match[1]), Number(match[2]));
  }
  const nameOf = new Map();
  for (const line of debugfs('ncheck', [...new Set(inodeOf.values())]).split('\n')) {
    const match = /^(\d+)\t(\S.*)$/.exec(line);
    if (match) nameOf.set(Number(match[1]), match[2]);
  }
  const sums = new Map();
  for (const { block, compressedBytes } of blocks) {
    const set = touched.get(block);
    for (const at of set) {
      const name =
        at < 0
          ? '(boot loader)'
          : inodeOf.has(at)
            ? (nameOf.get(inodeOf.get(at)) ?? `inode ${inodeOf.get(at)}`)
            : '(metadata)';
      sums.set(name, (sums.get(name) ?? 0) + compressedBytes / set.size);
    }
  }
  return [...sums].sort((a, b) => b[1] - a[1]);
}

const round = (number, digits) => Number(number.toFixed(digits));
const results = [];
for (let run = 0; run < Number(options.runs); run++) {
  const { seconds, cpuSeconds, reads } = await boot();
  if (options.reads !== undefined) writeFileSync(options.reads, reads.map((read) => `${read.join(' ')}\n`).join(''));
  const blocks = bootSet(reads);
  const compressed = blocks.reduce((sum, { compressedBytes }) => sum + compressedBytes, 0);
  const result = {
    appliance: appliance.appliance,
    bus: options.bus ?? appliance.disks[0].bus,
    secondsToPrompt: round(seconds, 2),
    qemuCpuSeconds: round(cpuSeconds, 2),
    blocks: blocks.length,
    blockBytes,
    megabytes: round((blocks.length * blockBytes) / 1e6, 1),
    compressedMegabytes: round(compressed / 1e6, 2),
    zeroBlocks: blocks.filter(({ zero }) => zero).length,
  };
  results.push(result);
  if (!options.json) {
    console.log(
      `${result.appliance} on ${result.bus}: ${result.secondsToPrompt} s to the prompt (${result.qemuCpuSeconds} s of processor); ${result.blocks} blocks of ${blockBytes} bytes read: ${result.megabytes} MB, ${result.compressedMegabytes} MB compressed (${result.zeroBlocks} all zero)`,
    );
    if (options.files) {
      for (const [name, bytes] of byFile(reads, blocks).slice(0, 60))
        console.log(`${(bytes / 1e3).toFixed(0).padStart(8)} kB  ${name}`);
    }
  }
}
if (options.json) console.log(JSON.stringify(results));
