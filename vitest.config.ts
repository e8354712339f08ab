import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Long rows of guests begin first: what is left for the end is short, and no core stands idle beside the last file. */
const LONGEST = ['test/kills/', 'test/outages/', 'test/end-to-end/', 'test/machine/'];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isLong = ({ moduleId }: TestSpecification): boolean => LONGEST.some((folder) => moduleId.includes(folder));
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

const INTEG = { testTimeout: 600_000, hookTimeout: 600_000, expect: { poll: { timeout: 120_000 } } };

const source = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

// Unit tests and simulations run on the sources; integration tests start the built programs (`npm run build` first, also for the bundle of packages/schema).
export default defineConfig({
  resolve: {
    alias: {
      '@collective/shared/errors': source('packages/shared/src/errors.ts'),
      '@collective/shared': source('packages/shared/src/index.ts'),
      '@collective/repository-server': source('packages/repository-server/src/index.ts'),
      '@collective/transceiver': source('packages/transceiver/src/index.ts'),
    },
  },
  test: {
    // A hang ends by these; on a machine that others use, or that stood still for a while, nothing else does.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    sequence: { sequencer: LongestFirst },
    // Half of them by itself: 1 on a machine with 2 cores.
    maxWorkers: '100%',
    expect: { poll: { timeout: 20_000 } },
    setupFiles: [source('test/support/property-seed.ts')],
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', 'test/**/*.test.ts'],
          // A file gets the modules that the one before it has loaded: with modules of its own, loading them was half of the run. So a test
          // gives back what it changes of its process (timers, the environment).
          isolate: false,
          exclude: ['**/dist/**', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: {
          name: 'simulation',
          include: ['test/simulation/**/*.sim.ts'],
          exclude: ['**/dist/**', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: {
          ...INTEG,
          name: 'integ',
          include: ['test/**/*.integ.ts'],
          exclude: ['**/dist/**', '**/node_modules/**'],
          // A guest computes on one core.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
