/** What the guest of the backup benchmark does to its disks, step after step: what a person's machine writes. Each ends with a sync. */
import type { GuestShell } from '../../kills/guest-shell.js';

const APT =
  'apt-get -q -y -o Dir::Etc::SourceList=/run/backup/shelf.list -o Dir::Etc::SourceParts=- -o Dpkg::Options::=--path-include=/*';
const STEP_MS = 1_500_000;

export type WorkStep = { readonly name: string; readonly script: string };

/** Before the first measured step: the shelf is mounted, and everything that the steps need is installed from it. */
export const prepareGuest = async (guest: GuestShell, packages = 'git sqlite3'): Promise<void> => {
  await guest.write('/run/backup/shelf.list', 'deb [trusted=yes] copy:/run/shelf ./\n');
  await guest.check(
    `mkdir -p /run/shelf && mount -o ro LABEL=shelf /run/shelf && ${APT} update && ${APT} install ${packages} && rm -f /ephemeral/apt/cache/archives/*.deb && sync`,
    STEP_MS,
  );
};

/** A table of accounts whose balances move in many small transactions, as a program does that keeps its books. */
const SQLITE = `
mkdir -p /home/db; cd /home/db; rm -f books.db*
{ echo 'PRAGMA journal_mode=WAL; CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT, balance INTEGER); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 20000) INSERT INTO account SELECT i, hex(randomblob(16)), 1000 FROM n;'
  for i in $(seq 1 1500); do echo "BEGIN; UPDATE account SET balance = balance - 1 WHERE id = 1 + abs(random()) % 20000; UPDATE account SET balance = balance + 1 WHERE id = 1 + abs(random()) % 20000; COMMIT;"; done
} | sqlite3 books.db >/dev/null`;

/** A cache of many small files that are rewritten and deleted, a history in SQLite, and preferences that are replaced as a whole. */
const BROWSER = `
mkdir -p /home/profile/cache; cd /home/profile
for i in $(seq 1 400); do
  head -c $((RANDOM % 30000 + 200)) /dev/urandom >cache/entry-$((RANDOM % 300))
  if [ $((i % 20)) = 0 ]; then
    seq 1 $((i * 3)) | sed 's/.*/{"key-&": "value of & in a list of preferences"}/' >prefs.new && sync prefs.new && mv prefs.new prefs.json
    sqlite3 places.db "CREATE TABLE IF NOT EXISTS visit (url TEXT, at INTEGER); INSERT INTO visit VALUES ('https://example.org/page/$RANDOM', $i); DELETE FROM visit WHERE at < $i - 200;"
  fi
done`;

const GIT = `
mkdir -p /home/source; cd /home/source
if [ ! -d origin ]; then
  mkdir origin; cd origin; git init -q .; git config user.email a@example.org; git config user.name A
  cp -r /usr/share/perl /usr/share/doc . 2>/dev/null; git add -A; git commit -q -m one; cd ..
fi
rm -rf clone; git clone -q --no-local origin clone`;

export const WORK_STEPS: readonly WorkStep[] = [
  { name: 'package installation', script: `${APT} install vim && rm -f /ephemeral/apt/cache/archives/*.deb` },
  { name: 'git clone', script: GIT },
  { name: 'SQLite transactions', script: SQLITE },
  { name: 'browser profile', script: BROWSER },
];

export const runStep = async (guest: GuestShell, { script }: WorkStep): Promise<void> => {
  await guest.check(`${script}\nsync`, STEP_MS);
};
