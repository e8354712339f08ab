/**
 * A cold boot with its trace over the other emulator: a line of packets, over which the kernel's TCP runs with its handshake and its slow start, and TLS, as it
 * must be beyond the loopback interface. First the line shows itself: one curl of so much on a new connection.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Child, runOrThrow } from '../../support/child.js';
import { Repository } from '../../support/collective.js';
import { PacketLine, PAYLOAD_SHARE } from '../../support/packet-line.js';
import { selfSigned } from '../../support/self-signed.js';
import { informs, interval, median, type BenchCase } from '../bench-result.js';
import { LINES } from '../trace-player/links.js';
import { APPLIANCE } from './appliance.js';
import type { BestBoot } from './best-boot.js';
import { RANGE_SERVER } from './competitors.js';
import { spentCases, tracedCases } from './link-rounds.js';
import { bootNewHome, type OurBoot } from './ours.js';
import type { BootRig } from './rig.js';

export const PACKET_LINKS = ['cable', 'lte'] as const;
export type PacketLink = (typeof PACKET_LINKS)[number];

/** Towards the server, as link.mjs has it. */
const UP_BITS_PER_SECOND: Readonly<Record<PacketLink, number>> = { cable: 20e6, lte: 5e6 };
const CURL_KIBIBYTES = [64, 256, 1_024] as const;
const CURLS = 3;
const RANGE_PORT = 8_471;

const openLine = async (link: PacketLink): Promise<PacketLine> => {
  const { bitsPerSecond, roundTripMs } = LINES[link];
  return await PacketLine.open({
    downBitsPerSecond: bitsPerSecond,
    upBitsPerSecond: UP_BITS_PER_SECOND[link],
    roundTripMs,
  });
};

/** Seconds of a download of that length, each on a connection of its own. */
const slowStarts = async (link: PacketLink, folder: string): Promise<BenchCase[]> => {
  const { bitsPerSecond, roundTripMs } = LINES[link];
  await using line = await openLine(link);
  const cases: BenchCase[] = [];
  for (const kibibytes of CURL_KIBIBYTES) {
    const file = path.join(folder, 'file');
    await writeFile(file, Buffer.alloc(kibibytes * 1_024, 'x'));
    const server = [process.execPath, RANGE_SERVER, file, String(RANGE_PORT), line.address];
    const [command = '', ...words] = [...line.atFarEnd, ...server];
    await using far = new Child('range server', command, words);
    await far.waitFor(/serving/);
    const seconds: number[] = [];
    for (let curl = 0; curl < CURLS; curl += 1) {
      const url = `http://${line.address}:${RANGE_PORT}/`;
      const { stdout } = await runOrThrow('curl', ['-s', '-o', '/dev/null', '-w', '%{time_total}', url]);
      seconds.push(Number(stdout));
    }
    const atRate = (kibibytes * 1_024 * 8) / (bitsPerSecond * PAYLOAD_SHARE);
    const note = `${interval(seconds, 3)}; at the line's rate ${atRate.toFixed(3)} s, a round trip ${roundTripMs} ms`;
    cases.push(informs(`packets ${link}: curl of ${kibibytes} KiB on a new connection`, median(seconds), 's', note));
  }
  return cases;
};

export const packetCases = async (rig: BootRig, link: PacketLink, rounds: number): Promise<BenchCase[]> => {
  const folder = await mkdtemp(path.join(rig.folder, 'packets-'));
  try {
    const shown = await slowStarts(link, folder);
    const { certificate, key } = await selfSigned(folder, 'server');
    const repositoryFolder = await rig.copyOfRepository();
    const line = { ...LINES[link], bitsPerSecond: LINES[link].bitsPerSecond * PAYLOAD_SHARE };
    const boots: { readonly traced: OurBoot; readonly best: BestBoot }[] = [];
    for (let round = 0; round < rounds; round += 1) {
      const bootTraced = async (): Promise<OurBoot> => bootThrough(rig, link, { repositoryFolder, certificate, key });
      const isOursFirst = round % 2 === 1;
      const first = isOursFirst ? await bootTraced() : undefined;
      const best = await rig.best(line);
      const traced = first ?? (await bootTraced());
      rig.log(
        `packets ${link}, round ${round + 1}: ${traced.seconds.toFixed(2)} s, T* ${best.tStarSeconds.toFixed(2)} s`,
      );
      boots.push({ traced, best });
    }
    const name = `packets ${link}`;
    return [
      ...shown,
      ...tracedCases(name, boots),
      ...spentCases(
        `${name}: cold with trace`,
        boots.map(({ traced }) => traced),
        line.bitsPerSecond,
      ),
    ];
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const bootThrough = async (
  rig: BootRig,
  link: PacketLink,
  server: { readonly repositoryFolder: string; readonly certificate: string; readonly key: string },
): Promise<OurBoot> => {
  await using line = await openLine(link);
  const tls = ['--tls-cert', server.certificate, '--tls-key', server.key];
  await using repository = await Repository.serve(
    server.repositoryFolder,
    0,
    ['--listen', `${line.address}:0`, ...tls, '--collect-every', '0s'],
    undefined,
    line.atFarEnd,
  );
  const account = rig.newAccount();
  const joinLink = await repository.invite(account, 'user', { appliances: [APPLIANCE] });
  const before = await line.downBytes();
  const downBytes = async (): Promise<number> => (await line.downBytes()) - before;
  return await bootNewHome(repository, joinLink, { account, isTraced: true, downBytes });
};
