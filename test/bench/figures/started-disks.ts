/**
 * The block nodes that a guest of the figures boots on: its system disk as a local file, over our block path behind a link, or over nbdkit's curl
 * plugin behind a link. What is fetched before the guest can start is counted in `prepareSeconds`.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ServerClient } from '../../faults/server-client.js';
import { Repository, repositoryCommand } from '../../support/collective.js';
import { Link, type LinkProfile } from '../../support/link.js';
import { publish, type ApplianceImages } from '../boot/appliance.js';
import { overlayOver, throughLink, withFolder, withNbdkit } from '../boot/competitors.js';
import { bootGuest, type BlockNode } from '../boot/qemu-boot.js';
import { OurPath } from '../trace-player/our-path.js';
import { readPublishedVersion, type PublishedVersion } from '../trace-player/published-disks.js';
import { nodesOn } from '../trace-player/runs.js';

export type Nodes = Readonly<Record<string, BlockNode>>;
export type OnNodes<T> = (nodes: Nodes) => Promise<T>;
export type Ran<T> = { readonly result: T; readonly prepareSeconds: number; readonly downBytes: number };

export class PublishedAppliance implements AsyncDisposable {
  readonly images: ApplianceImages;
  readonly version: PublishedVersion;
  readonly repository: Repository;
  readonly #name: string;
  readonly #folder: string;
  #accounts = 0;

  private constructor(
    folder: string,
    parts: { name: string; images: ApplianceImages; repository: Repository; version: PublishedVersion },
  ) {
    this.#folder = folder;
    this.#name = parts.name;
    this.images = parts.images;
    this.repository = parts.repository;
    this.version = parts.version;
  }

  /** Published to a repository of its own, which goes at the end. */
  static async open(name: string, images: ApplianceImages): Promise<PublishedAppliance> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'figure-'));
    await repositoryCommand(['init', path.join(folder, 'r')]);
    const repository = await Repository.serve(path.join(folder, 'r'));
    await publish(repository, images, name);
    return new PublishedAppliance(folder, {
      ...{ name, images, repository },
      version: await readPublishedVersion(repository.folder, name),
    });
  }

  /** Somebody new. */
  async client(): Promise<ServerClient> {
    const account = `figure-${process.pid}-${(this.#accounts += 1)}`;
    return await ServerClient.join(
      await this.repository.invite(account, 'publisher', { appliances: [this.#name] }),
      account,
    );
  }

  /** A block daemon whose cache holds the whole system disk. */
  async filled(): Promise<OurPath> {
    const ours = await OurPath.start(this.version, this.repository.port);
    await ours.hoard('system');
    return ours;
  }

  /** Boots once to the prompt, and tells the repository what that touched, which packs it. */
  async tellTrace(prompt: RegExp): Promise<void> {
    await using ours = await OurPath.start(this.version, this.repository.port);
    const guest = await bootGuest(this.images, nodesOn(await ours.attach()), {
      prompt,
      beforeStart: () => ours.startTraces(),
    });
    const client = await this.client();
    await ours.tellTraces(client);
    await client.close();
    await guest.end();
    await ours.detach();
    await repositoryCommand(['pack-boots', this.repository.folder]);
  }

  /** Over our block path behind a fresh link. `ours`: one whose cache has something; without it, one that has nothing. */
  async overOurs<T>(
    profile: LinkProfile,
    options: { readonly isTraced: boolean; readonly ours?: OurPath },
    work: OnNodes<T>,
  ): Promise<Ran<T>> {
    const { isTraced, ours: given } = options;
    await using link = await Link.open({ toPort: this.repository.port, profile });
    // Logged in before the clock runs: only what a start fetches is counted.
    const client = await this.client();
    await client.moveTo(`http://127.0.0.1:${link.port}`);
    const ours = given ?? (await OurPath.start(this.version, link.port));
    try {
      await ours.moveTo(link.port);
      const beganMs = performance.now();
      const sockets = await ours.attach(await ours.fetchDescription(client, { isTraced }));
      const prepareSeconds = (performance.now() - beganMs) / 1000;
      const result = await work(nodesOn(sockets));
      await ours.detach();
      await client.close();
      return { result, prepareSeconds, downBytes: (await link.close()).downBytes };
    } finally {
      if (given === undefined) await ours[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.repository[Symbol.asyncDispose]();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** On a qcow2 overlay over the raw file. */
export const overLocal = async <T>(images: ApplianceImages, work: OnNodes<T>): Promise<Ran<T>> =>
  await withFolder(async (folder) => ({
    result: await work({ system: await overlayOver(folder, images.system, 'raw', diskBytesOf(images)) }),
    prepareSeconds: 0,
    downBytes: 0,
  }));

/** Over a network disk that keeps nothing: nbdkit's curl plugin, writes in a local overlay, on a web server behind the link. */
export const overNetworkDisk = async <T>(
  images: ApplianceImages,
  profile: LinkProfile,
  work: OnNodes<T>,
): Promise<Ran<T>> => {
  const { result, downBytes } = await throughLink(images, profile, async (url, folder) =>
    withNbdkit(folder, ['--filter=cow', 'curl', `url=${url}`], (node) => work({ system: node })),
  );
  return { result, prepareSeconds: 0, downBytes };
};

const diskBytesOf = (images: ApplianceImages): number => {
  const disk = images.disks.find(({ name }) => name === 'system');
  if (disk === undefined) throw new Error('the appliance has no system disk');
  return disk.diskBytes;
};
