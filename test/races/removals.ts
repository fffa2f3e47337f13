/** How single guards are taken out, of a database or of the processes of a test: to show that somebody notices. */
export interface Removal {
  /** what takes it out of the database */
  readonly sql?: string
  /** what takes it out of the code; see without.mjs */
  readonly code?: readonly { file: string; text: string; instead: string }[]
  /** for the workers, with the guard and without it */
  readonly env?: Readonly<Record<string, string>>
}

const BATCH = '/src/workers/queue/settlement.ts'

/** Makes what a batch writes there late: time for another to decide on what it has read. */
const late = (when: string) => `
  CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
  CREATE TRIGGER late BEFORE ${when} FOR EACH STATEMENT EXECUTE FUNCTION late()`

export const OVERLAP = { sql: 'ALTER TABLE bookings DROP CONSTRAINT bookings_no_overlap' } satisfies Removal

export const STOCK = { sql: 'ALTER TABLE resources DROP CONSTRAINT resources_available_check' } satisfies Removal

export const RIDE = { sql: `DROP INDEX bookings_active_ride; ${late('UPDATE ON bookings')}` } satisfies Removal

/** The fence in the guard of a batch, and the trigger that keeps it from falling. */
export const FENCE = {
  sql: 'DROP TRIGGER resources_fencing_token ON resources',
  env: { TOKENS_LATE_MS: '2000' },
  code: [{ file: BATCH, text: ' AND r.fencing_token <= l.token', instead: '' }],
} satisfies Removal

/** The row locks under which a batch reads what it will write. */
export const ROW_LOCKS = {
  sql: late('INSERT ON ledger_entries'),
  code: [
    { file: BATCH, text: ' FOR NO KEY UPDATE OF r', instead: '' },
    {
      file: BATCH,
      text: `UPDATE resources r SET fencing_token = l.token
    FROM locked l
    WHERE r.ref = l.ref AND r.fencing_token <= l.token
    RETURNING r.ref,`,
      instead: 'SELECT r.ref,',
    },
    {
      file: BATCH,
      text: `AS now_ms\`,
  )
  const resources = new Map`,
      instead: `AS now_ms FROM locked l JOIN resources r ON r.ref = l.ref\`,
  )
  const resources = new Map`,
    },
    { file: BATCH, text: ' AND t.fencing_token = d.token', instead: '' },
  ],
} satisfies Removal

/** The condition on the status that was decided on, and the ledger's unique effects behind it. */
export const STATUS = {
  sql: 'DROP INDEX ledger_entries_effect',
  code: [
    {
      file: BATCH,
      text: 'WHERE t.id = d.id AND t.status = d.was\n        --',
      instead: 'WHERE t.id = d.id\n        --',
    },
  ],
} satisfies Removal

/** The unique keys of purchases, and what the intake does about them. */
export const IDEMPOTENCY = {
  sql: 'DROP INDEX purchases_idempotency_key',
  code: [
    {
      file: '/src/api/queue/intake.ts',
      text: 'ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING',
      instead: '',
    },
  ],
} satisfies Removal

/** The merging of lines of one resource, on both sides. */
export const MERGING = {
  code: [
    {
      file: '/src/shared/domain/resource.ts',
      text: 'export function mergeLines(lines: readonly Line[]): Line[] {',
      instead: 'export function mergeLines(lines: readonly Line[]): Line[] {\n  return [...lines]',
    },
    {
      file: '/src/workers/decide/purchases.ts',
      text: 'units.set(line.resource, (units.get(line.resource) ?? 0) + line.units)',
      instead: 'units.set(line.resource, line.units)',
    },
  ],
} satisfies Removal
