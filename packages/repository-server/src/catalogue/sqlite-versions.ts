/** The index of what the manifests name, in SQLite. See the seam for what each method promises. */
import { type Digest, digestBytes, digestFromBytes } from '@collective/shared';
import { type SizedChunk, VERSION_STATES, type VersionRecord, type Versions, type VersionState } from './catalogue.js';
import { inSlices, nextTurn, SLICE } from './slices.js';
import { type CatalogueDatabase } from './sqlite-database.js';

type VersionRow = {
  appliance: string;
  version: number;
  manifest: Buffer;
  created_at: number;
  title: string;
  chunk_bytes: number;
  state: string;
  state_since: number;
  indexed: number;
};

type LiveRow = { digest: Buffer; appliance: number };

export const sqliteVersions = ({ full, relaxed }: CatalogueDatabase): Versions => {
  const selectAppliances = full.prepare<[], { appliance: string }>(
    'select distinct appliance from versions order by 1',
  );
  const selectVersions = full.prepare<[string], VersionRow>(
    'select * from versions where appliance = ? order by version',
  );
  const selectVersion = full.prepare<[string, number], VersionRow>(
    'select * from versions where appliance = ? and version = ?',
  );
  const selectHead = full.prepare<[string], VersionRow>(
    "select * from versions where appliance = ? and state = 'live' order by version desc limit 1",
  );
  const selectLastNumber = full.prepare<[string], { version: number | null }>(
    'select max(version) as version from versions where appliance = ?',
  );
  const selectCandidates = full.prepare<[], VersionRow>(
    "select * from versions where state = 'candidate' order by appliance, version",
  );
  const upsertVersion = full.prepare('insert or replace into versions values (?, ?, ?, ?, ?, ?, ?, ?, ?)');
  const deleteVersion = full.prepare('delete from versions where appliance = ? and version = ?');
  const updateState = full.prepare(
    'update versions set state = ?, state_since = ? where appliance = ? and version = ?',
  );
  const updateIndexed = relaxed.prepare('update versions set indexed = ? where appliance = ? and version = ?');
  const insertNumber = relaxed.prepare('insert or ignore into appliance_numbers (name) values (?)');
  const selectNumber = relaxed.prepare<[string], { number: number }>(
    'select number from appliance_numbers where name = ?',
  );
  const insertLive = relaxed.prepare('insert or ignore into live_chunks values (?, ?, ?, ?)');
  const deleteLive = relaxed.prepare('delete from live_chunks where digest = ? and appliance = ?');
  const selectLive = relaxed.prepare<[Buffer], { appliance: number; chunk_bytes: number; plain_bytes: number }>(
    'select appliance, chunk_bytes, plain_bytes from live_chunks where digest = ?',
  );
  const selectLiveAfter = relaxed.prepare<[Buffer, number, number], LiveRow>(
    'select digest, appliance from live_chunks where (digest, appliance) > (?, ?) order by digest, appliance limit ?',
  );
  const selectCounter = full.prepare<[string], { value: number }>('select value from counters where name = ?');
  // The row is made by the first signing: older catalogues do not have it.
  const updateHeads = full.prepare<[number, number], { value: number }>(
    "insert into counters values ('heads', ? + 1) on conflict (name) do update set value = max(value, ?) + 1 returning value",
  );
  const updateCollections = full.prepare("update counters set value = value + 1 where name = 'collections'");

  const numberOf = (appliance: string): number | undefined => selectNumber.get(appliance)?.number;
  const addLive = relaxed.transaction((appliance: string, slice: readonly SizedChunk[]) => {
    insertNumber.run(appliance);
    const number = numberOf(appliance);
    for (const { digest, chunkBytes, plainBytes } of slice) {
      insertLive.run(digestBytes(digest), number, chunkBytes, plainBytes);
    }
  });
  const removeLive = relaxed.transaction((rows: readonly LiveRow[]) => {
    for (const { digest, appliance } of rows) deleteLive.run(digest, appliance);
  });

  return {
    appliances: async () => selectAppliances.all().map((row) => row.appliance),
    versions: async (appliance) => selectVersions.all(appliance).map(toRecord),
    version: async (appliance, version) => {
      const row = selectVersion.get(appliance, version);
      return row === undefined ? undefined : toRecord(row);
    },
    head: async (appliance) => {
      const row = selectHead.get(appliance);
      return row === undefined ? undefined : toRecord(row);
    },
    lastNumber: async (appliance) => selectLastNumber.get(appliance)?.version ?? undefined,
    candidates: async () => selectCandidates.all().map(toRecord),
    recordVersion: async (record) => {
      upsertVersion.run(
        record.appliance,
        record.version,
        digestBytes(record.manifest),
        record.createdAt,
        record.title,
        record.chunkBytes,
        record.state,
        record.stateSince,
        record.indexed ? 1 : 0,
      );
    },
    removeVersion: async (appliance, version) => {
      deleteVersion.run(appliance, version);
    },
    setVersionState: async (appliance, version, state, since) => {
      updateState.run(state, since, appliance, version);
    },
    setIndexed: async (appliance, version, indexed) => {
      updateIndexed.run(indexed ? 1 : 0, appliance, version);
    },
    addLiveChunks: async (appliance, chunks) => {
      await inSlices(chunks, (slice) => addLive.immediate(appliance, slice));
    },
    // A walk over the whole index, in slices: it is ordered by digest, and forgetting is rare.
    retainLiveChunks: async (appliance, digests) => {
      const number = numberOf(appliance);
      let after: LiveRow = { digest: Buffer.alloc(0), appliance: 0 };
      while (number !== undefined) {
        const rows = selectLiveAfter.all(after.digest, after.appliance, SLICE);
        const doomed = rows.filter((row) => row.appliance === number && !digests.has(digestFromBytes(row.digest)));
        if (doomed.length > 0) removeLive.immediate(doomed);
        const last = rows.at(-1);
        if (last === undefined) return;
        after = last;
        await nextTurn();
      }
    },
    liveChunks: async (digests, appliances) => {
      const wanted = appliances === undefined ? undefined : new Set(appliances.map(numberOf));
      const live = new Map<Digest, SizedChunk>();
      await inSlices(digests, (slice) => {
        for (const digest of slice) {
          const rows = selectLive.all(digestBytes(digest));
          const found = rows.find((row) => wanted === undefined || wanted.has(row.appliance));
          if (found === undefined) continue;
          live.set(digest, { digest, chunkBytes: found.chunk_bytes, plainBytes: found.plain_bytes });
        }
      });
      return live;
    },
    headsNumber: async () => selectCounter.get('heads')?.value ?? 0,
    takeHeadsNumber: async (after) => updateHeads.get(after, after)?.value ?? after + 1,
    collectionNumber: async () => selectCounter.get('collections')?.value ?? 0,
    beginCollection: async () => {
      updateCollections.run();
    },
  };
};

const toRecord = (row: VersionRow): VersionRecord => ({
  appliance: row.appliance,
  version: row.version,
  manifest: digestFromBytes(row.manifest),
  createdAt: row.created_at,
  title: row.title,
  chunkBytes: row.chunk_bytes,
  state: toState(row.state),
  stateSince: row.state_since,
  indexed: row.indexed !== 0,
});

// An unknown word keeps the blocks: nothing is ever collected by mistake.
const toState = (text: string): VersionState => VERSION_STATES.find((state) => state === text) ?? 'withdrawn';
