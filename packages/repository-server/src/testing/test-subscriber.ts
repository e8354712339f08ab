/** A repository with a published appliance that has an initial user disk, and a person who is subscribed to it. */
import { type Digest, sha256 } from '@collective/shared';
import { BLOCK_BYTES, type DiskPlan, manifestOf, mapOf, signManifest, TestPublisher } from './test-publisher.js';
import { TestBackup, type UserPlan } from './test-backup.js';
import { type TestPerson, TestRepository } from './test-repository.js';

export const SUBSCRIPTION = '5'.repeat(32);
/** The initial user disk: 300 blocks, so that its map has a root and three leaves, the middle one all zero. */
export const INITIAL: DiskPlan = Array.from({ length: 300 }, (_, index) =>
  index < 128 ? 1_000 + (index % 7) : index < 256 ? 0 : 2_000,
);

/** That disk as it begins, and with some blocks written. */
export const INHERITED: UserPlan = INITIAL.map(() => 'inherit');
export const written = (blocks: Readonly<Record<number, UserPlan[number]>>): UserPlan =>
  INHERITED.map((entry, index) => blocks[index] ?? entry);

export type Subscriber = {
  readonly server: TestRepository;
  readonly publisher: TestPublisher;
  readonly alice: TestPerson;
  readonly person: TestPerson;
  readonly backup: TestBackup;
  /** Root of the initial user disk. */
  readonly base: Digest;
  readonly version: { readonly appliance: string; readonly version: number; readonly manifest: Digest };
};

/** Version 1 of `debian` by alice, and ursula, who may use it, with a subscription and its lease. */
export const openSubscriber = async (options: Parameters<typeof TestRepository.open>[0] = {}): Promise<Subscriber> => {
  const server = await TestRepository.open(options);
  const alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  const publisher = new TestPublisher(server, alice);
  const { base, version } = await publishWithUserDisk(server, alice, 1, null, INITIAL);
  const person = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
  const backup = new TestBackup(server, person, { subscription: SUBSCRIPTION, writtenBy: version, base });
  await backup.create();
  await backup.take();
  return { server, publisher, alice, person, backup, base, version };
};

/** Snapshots 1 to `count`, a second apart, each with another content of block 3. */
export const saveMany = async ({ backup, server }: Subscriber, count: number): Promise<void> => {
  for (let at = 1; at <= count; at += 1) {
    await backup.save({ plan: written({ 3: at, 200: 5_000 }) });
    server.clock.advance(1);
  }
};

/** A version whose system disk is one block and whose initial user disk is `plan`. */
export const publishWithUserDisk = async (
  server: TestRepository,
  alice: TestPerson,
  number: number,
  parent: Parent,
  plan: DiskPlan,
): Promise<Pick<Subscriber, 'base' | 'version'>> => ({
  version: await publishWithUserDisks(server, alice, { number, parent, plans: { user: plan } }),
  base: mapOf(plan).build().root,
});

type Parent = { readonly version: number; readonly manifest: Digest } | null;

/** A version whose system disk is one block, with these initial user disks by name. */
export const publishWithUserDisks = async (
  server: TestRepository,
  alice: TestPerson,
  of: { readonly number: number; readonly parent: Parent; readonly plans: Readonly<Record<string, DiskPlan>> },
): Promise<Subscriber['version']> => {
  const { number } = of;
  const parent = of.parent === null ? null : { version: of.parent.version, manifest: of.parent.manifest };
  const plans = Object.entries(of.plans);
  const publisher = new TestPublisher(server, alice);
  const upload = await publisher.openUpload('debian', parent?.version ?? null);
  await publisher.sendChunks(upload, [1, ...plans.flatMap(([, plan]) => plan)]);
  await publisher.sendDisk(upload, [1]);
  for (const [name, plan] of plans) await publisher.sendNamedDisk(upload, name, plan);
  const manifest = manifestOf({
    appliance: 'debian',
    version: number,
    parent,
    plan: [1],
    change: (made) => ({
      ...made,
      disks: [
        ...made.disks,
        ...plans.map(([name, plan]) => ({
          name,
          kind: 'user' as const,
          bus: 'virtio' as const,
          diskBytes: plan.length * BLOCK_BYTES,
          blockBytes: BLOCK_BYTES,
          root: mapOf(plan).build().root,
          base: null,
        })),
      ],
    }),
  });
  const file = signManifest(manifest, alice.publishing);
  const reply = await publisher.commit(upload, file);
  if (reply.status !== 201) throw new Error(`publish: ${reply.body.toString('utf8')}`);
  return { appliance: 'debian', version: number, manifest: sha256(file) };
};
