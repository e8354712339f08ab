/** `check DIR`, `gc DIR`, `pack-boots DIR`: verify everything, delete what nothing names, pack what boots read. All work beside a running server. */
import { type Command } from 'commander';
import { parseSeconds } from '../duration.js';
import { DEFAULT_LIMITS, GRACE_SECONDS_DEFAULT } from '../limits.js';
import { packBoots } from '../repository/boot-objects.js';
import { checkRepository } from '../repository/check-repository.js';
import { collectGarbage } from '../repository/collector.js';
import { MapStore } from '../repository/map-store.js';
import { type CommonOptions, EXIT, print } from './command-io.js';
import { withFolder, withRepository } from './repository-command.js';

const PROBLEMS_SHOWN = 100;

export const addCareCommands = (program: Command): void => {
  program
    .command('check')
    .description('verify every chunk, page, manifest, heads and trust file; exit code 4 when something is damaged')
    .argument('<dir>', 'repository folder')
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: CommonOptions) => {
      await withFolder(dir, async ({ blobStore, catalogue }) => {
        const maps = new MapStore(blobStore, { ...DEFAULT_LIMITS, mapCacheBytesMax: 0 });
        const result = await checkRepository({ blobStore, catalogue, maps });
        const isWhole = result.problems.length === 0;
        const { orphans, problems, ...totals } = result;
        print(flags, { ok: isWhole, ...totals, orphans: orphans.length, problems }, [
          ...problems.slice(0, PROBLEMS_SHOWN).map(({ kind, name, message }) => `${kind}: ${name}: ${message}`),
          ...(problems.length > PROBLEMS_SHOWN
            ? [`… and ${problems.length - PROBLEMS_SHOWN} more (--json prints all)`]
            : []),
          `${totals.appliances} appliances, ${totals.versions} versions, ${totals.snapshots} snapshots of ${totals.subscriptions} subscriptions, ${totals.chunks} chunks (${totals.chunkBytes} bytes), ${orphans.length} orphans`,
          isWhole ? 'Everything is as it should be.' : `${problems.length} problems.`,
        ]);
        if (!isWhole) process.exitCode = EXIT.damaged;
      });
    });
  program
    .command('pack-boots')
    .description('pack the blocks that boots of the newest versions read, so that a start brings fewer bytes')
    .argument('<dir>', 'repository folder')
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: CommonOptions) => {
      await withRepository(dir, async (repository) => {
        const result = await packBoots(repository);
        print(flags, result, [
          `Packed ${result.packed} (${result.objectBytes} bytes instead of ${result.chunkBytes}), ${result.kept} are as they should be.`,
          ...result.problems,
        ]);
      });
    });
  program
    .command('gc')
    .description('delete what no version or snapshot names, and forget what has been deleted for the grace time')
    .argument('<dir>', 'repository folder')
    .option(
      '--grace <time>',
      'how long what is withdrawn or deleted keeps its blocks: 30d, 12h, 0s (default: as set by retention)',
    )
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: CommonOptions & { readonly grace?: string }) => {
      const asked = flags.grace === undefined ? undefined : parseSeconds(flags.grace);
      await withRepository(dir, async (repository, open) => {
        const graceSeconds = asked ?? (await open.readRetention())?.deletedSeconds ?? GRACE_SECONDS_DEFAULT;
        const result = await collectGarbage(repository, { graceSeconds });
        print(flags, result, [
          `Of persons: thinned ${result.snapshotsThinned} snapshots, forgot ${result.snapshotsForgotten}, deleted ${result.objectsDeleted} objects and rewrote ${result.objectsRewritten} (${result.objectBytesDeleted} bytes).`,
          `Forgot ${result.versionsForgotten} versions, deleted ${result.chunksDeleted} chunks (${result.bytesDeleted} bytes), kept ${result.chunksKept}.`,
        ]);
      });
    });
};
