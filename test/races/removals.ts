/**
 * Removals of single guards from a database or from the processes of a test. The tests must fail without each guard.
 */
export interface Removal {
  /** statement that removes the guard from the database */
  readonly sql?: string
  /** replacements of the code between the comments `guard:NAME` and `end:NAME`; see without.mjs */
  readonly code?: readonly { file: string; guard: string; instead: string }[]
  /** environment of the workers, with the guard and without it */
  readonly env?: Readonly<Record<string, string>>
}

const SETTLEMENT = '/src/workers/queue/settlement.ts'
const PURCHASES = '/src/workers/queue/purchase-rows.ts'

/** Returns SQL that delays these writes, so that another batch can decide on the rows read before them. */
const late = (when: string) => `
  CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
  CREATE TRIGGER late BEFORE ${when} FOR EACH STATEMENT EXECUTE FUNCTION late()`

export const OVERLAP = { sql: 'ALTER TABLE bookings DROP CONSTRAINT bookings_no_overlap' } satisfies Removal

export const STOCK = { sql: 'ALTER TABLE resources DROP CONSTRAINT resources_available_check' } satisfies Removal

export const RIDE = { sql: `DROP INDEX bookings_active_ride; ${late('UPDATE ON bookings')}` } satisfies Removal

/** Removes the fence of a batch, and the trigger that keeps the stored token from falling. */
export const FENCE = {
  sql: 'DROP TRIGGER resources_fencing_token ON resources',
  env: { TEST_TOKENS_LATE_MS: '2000' },
  code: [{ file: SETTLEMENT, guard: 'fence', instead: '' }],
} satisfies Removal

/** Removes the row locks under which a batch reads the rows that it will write. */
export const ROW_LOCKS = {
  sql: late('INSERT ON ledger_entries'),
  code: [
    { file: SETTLEMENT, guard: 'row-lock', instead: 'rows' },
    {
      file: SETTLEMENT,
      guard: 'row-update',
      instead: 'build.with(locked).select(fenced).from(locked).innerJoin(resources, eq(resources.id, locked.id))',
    },
    { file: PURCHASES, guard: 'row-token', instead: '' },
  ],
} satisfies Removal

/** Removes the condition on the status that was decided on, the trigger on statuses, and the unique index on ledger effects. */
export const STATUS = {
  sql: 'DROP INDEX ledger_entries_effect; DROP TRIGGER purchases_terminal ON purchases',
  code: [{ file: PURCHASES, guard: 'status', instead: '' }],
} satisfies Removal

/** Removes the unique index on the keys of purchases, and the intake's handling of it. */
export const IDEMPOTENCY = {
  sql: 'DROP INDEX purchases_idempotency_key',
  code: [{ file: '/src/api/queue/intake-rows.ts', guard: 'idempotency', instead: '' }],
} satisfies Removal

/** Removes the merging of items of one resource, in the API and in the worker. */
export const MERGING = {
  code: [
    { file: '/src/shared/domain/resource.ts', guard: 'merge-items', instead: 'return [...items]' },
    { file: '/src/workers/decide/purchases.ts', guard: 'merge-units', instead: '' },
  ],
} satisfies Removal
