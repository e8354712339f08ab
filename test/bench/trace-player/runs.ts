/** The runs of the trace benchmark: real boots and replays, on a filled cache and cold through a link, over our path and over theirs. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { decodeRequestRecording, type RequestRecordingFile } from '@collective/transceiver';
import { ServerClient } from '../../faults/server-client.js';
import { Child } from '../../support/child.js';
import { repositoryCommand, type Repository } from '../../support/collective.js';
import { freePort, Link } from '../../support/link.js';
import { APPLIANCE } from '../boot/appliance.js';
import { RANGE_SERVER } from '../boot/competitors.js';
import { bootToLogin, type BlockNode, type BootImages } from '../boot/qemu-boot.js';
import type { PlayedLink } from './links.js';
import { NbdPlayerClient } from './nbd-player-client.js';
import { OurPath } from './our-path.js';
import { play, type PlayResult } from './player.js';
import type { PublishedVersion } from './published-disks.js';
import type { ReplayPlan } from './replay-plan.js';
import { TheirPath } from './their-path.js';

export type Replay = { readonly plan: ReplayPlan; readonly disks: readonly string[]; readonly thinkFactor: number };

/** A run over a link. */
export type ColdRun = {
  /** From the first byte on the link to the login prompt, seconds: what is fetched before the machine starts is in it. */
  readonly seconds: number;
  /** Of these, before the machine started. */
  readonly prepareSeconds: number;
  readonly downBytes: number;
};

export type RecordedBoot = {
  readonly seconds: number;
  readonly recording: RequestRecordingFile;
  readonly bytes: Buffer;
};

export type PlayedColdRun = ColdRun & { readonly play: PlayResult };

export class TraceRuns {
  readonly #repository: Repository;
  readonly #images: BootImages;
  readonly #version: PublishedVersion;
  #accounts = 0;

  constructor(repository: Repository, images: BootImages, version: PublishedVersion) {
    this.#repository = repository;
    this.#images = images;
    this.#version = version;
  }

  /** A path whose cache holds what a boot touches: so many boots were made on it. */
  async filled(log: (line: string) => void, boots = 2): Promise<OurPath> {
    const ours = await OurPath.start(this.#version, this.#repository.port);
    for (let boot = 1; boot <= boots; boot += 1)
      log(`filling a cache, boot ${boot}: ${(await this.boot(ours)).toFixed(1)} s`);
    return ours;
  }

  /** A real guest, to its login prompt; seconds. */
  async boot(ours: OurPath): Promise<number> {
    const sockets = await ours.attach();
    const seconds = await bootToLogin(this.#images, nodesOn(sockets));
    await ours.detach();
    return seconds;
  }

  /** A real guest, recorded to its login prompt. `isTold`: then the repository knows the boot's trace, packed. */
  async record(ours: OurPath, { isTold = true } = {}): Promise<RecordedBoot> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'recording-'));
    try {
      const file = path.join(folder, 'recording');
      const sockets = await ours.attach();
      const seconds = await bootToLogin(this.#images, nodesOn(sockets), {
        beforeStart: async () => {
          await ours.startRecording();
          await ours.startTraces();
        },
        atLogin: () => ours.stopRecording(file),
      });
      if (isTold) await this.#tell(ours);
      await ours.detach();
      const bytes = await readFile(file);
      return { seconds, recording: decodeRequestRecording(bytes), bytes };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  async #tell(ours: OurPath): Promise<void> {
    const client = await this.#client();
    await ours.tellTraces(client);
    // What a server does by itself some minutes later.
    await repositoryCommand(['pack-boots', this.#repository.folder]);
    await client.close();
  }

  /** What the repository tells who starts the version. */
  async knownTrace(disk: string): Promise<Buffer> {
    const client = await this.#client();
    const { appliance, version } = this.#version;
    const { body } = await client.expect(200, 'bootTrace', { params: { name: appliance, version, disk } });
    await client.close();
    return body;
  }

  /** A replay on a path that is there, from fresh overlays. */
  async replay(ours: OurPath, replay: Replay): Promise<PlayResult> {
    const sockets = await ours.attach();
    const result = await playOn(sockets, replay);
    await ours.detach();
    return result;
  }

  /** A replay through a fresh link into an empty cache; `isTraced`: what the recorded boot touched is fetched ahead of it. */
  async replayCold(
    link: PlayedLink,
    replay: Replay,
    { isTraced }: { readonly isTraced: boolean },
  ): Promise<PlayedColdRun> {
    return await this.#cold(link, { isTraced }, (sockets) => playOn(sockets, replay)).then(({ result, ...run }) => ({
      ...run,
      play: result,
    }));
  }

  /** The same with a real guest. */
  async bootCold(link: PlayedLink, { isTraced }: { readonly isTraced: boolean }): Promise<ColdRun> {
    const { result: _seconds, ...run } = await this.#cold(link, { isTraced }, (sockets) =>
      bootToLogin(this.#images, nodesOn(sockets)),
    );
    return run;
  }

  /** The same replay over nbdkit's curl plugin, its clock started when it serves. */
  async replayTheirs(link: PlayedLink, replay: Replay): Promise<ColdRun & { readonly play: PlayResult }> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'player-'));
    try {
      const port = await freePort();
      await using server = new Child('range server', process.execPath, [
        RANGE_SERVER,
        this.#images.system,
        String(port),
      ]);
      await server.waitFor(/serving/);
      await using through = await Link.open({ toPort: port, profile: link });
      let result: PlayResult;
      {
        await using theirs = await TheirPath.start(this.#images, `http://127.0.0.1:${through.port}/system.raw`, folder);
        result = await playOn(theirs.sockets, replay);
      }
      const { downBytes } = await through.close();
      return { seconds: result.totalMs / 1000, prepareSeconds: 0, downBytes, play: result };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Somebody new. */
  async #client(): Promise<ServerClient> {
    const account = `player-${process.pid}-${(this.#accounts += 1)}`;
    const link = await this.#repository.invite(account, 'publisher', { appliances: [APPLIANCE] });
    return await ServerClient.join(link, account);
  }

  async #cold<T>(
    profile: PlayedLink,
    { isTraced }: { readonly isTraced: boolean },
    work: (sockets: ReadonlyMap<string, string>) => Promise<T>,
  ): Promise<ColdRun & { readonly result: T }> {
    await using link = await Link.open({ toPort: this.#repository.port, profile });
    // Logged in before the clock runs: only what a start fetches is counted.
    const client = await this.#client();
    await client.moveTo(`http://127.0.0.1:${link.port}`);
    await using ours = await OurPath.start(this.#version, link.port);
    const startedMs = performance.now();
    const sockets = await ours.attach(await ours.fetchDescription(client, { isTraced }));
    const preparedMs = performance.now();
    const result = await work(sockets);
    const endedMs = performance.now();
    await client.close();
    const { downBytes } = await link.close();
    return {
      seconds: (endedMs - startedMs) / 1000,
      prepareSeconds: (preparedMs - startedMs) / 1000,
      downBytes,
      result,
    };
  }
}

export const nodesOn = (sockets: ReadonlyMap<string, string>): Record<string, BlockNode> =>
  Object.fromEntries(
    [...sockets].map(([name, socket]) => [
      name,
      { driver: 'nbd', server: { type: 'unix', path: socket }, 'reconnect-delay': 10, discard: 'unmap' },
    ]),
  );

const playOn = async (sockets: ReadonlyMap<string, string>, replay: Replay): Promise<PlayResult> => {
  const clients: NbdPlayerClient[] = [];
  try {
    for (const name of replay.disks) {
      const socket = sockets.get(name);
      if (socket === undefined) throw new Error(`nobody serves disk ${name}`);
      clients.push(await NbdPlayerClient.open(socket));
    }
    return await play({ plan: replay.plan, clients, thinkFactor: replay.thinkFactor });
  } finally {
    for (const client of clients) client.close();
  }
};
