/** How single guards are removed from a database or from the processes of a test: the tests must notice each of them. */
export interface Removal {
  /** statement that removes it from the database */
  readonly sql?: string
  /** what replaces it in the code, between the comments `guard:NAME` and `end:NAME`; see without.mjs */
  readonly code?: readonly { file: string; guard: string; instead: string }[]
  /** of the workers, with the guard and without it */
  readonly env?: Readonly<Record<string, string>>
}

const SETTLEMENT = '/src/workers/queue/settlement.ts'
const PURCHASES = '/src/workers/queue/purchase-rows.ts'

/** Delays each write of a batch there, so that another batch can decide on the rows it has read. */
const late = (when: string) => `
  CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
  CREATE TRIGGER late BEFORE ${when} FOR EACH STATEMENT EXECUTE FUNCTION late()`

export const OVERLAP = { sql: 'ALTER TABLE bookings DROP CONSTRAINT bookings_no_overlap' } satisfies Removal

export const STOCK = { sql: 'ALTER TABLE resources DROP CONSTRAINT resources_available_check' } satisfies Removal

export const RIDE = { sql: `DROP INDEX bookings_active_ride; ${late('UPDATE ON bookings')}` } satisfies Removal

/** The fence in the guard of a batch, and the trigger that keeps it from falling. */
export const FENCE = {
  sql: 'DROP TRIGGER resources_fencing_token ON resources',
  env: { TEST_TOKENS_LATE_MS: '2000' },
  code: [{ file: SETTLEMENT, guard: 'fence', instead: '' }],
} satisfies Removal

/** The row locks under which a batch reads what it will write. */
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

/** The condition on the status that was decided on, and the ledger's unique effects behind it. */
export const STATUS = {
  sql: 'DROP INDEX ledger_entries_effect',
  code: [{ file: PURCHASES, guard: 'status', instead: '' }],
} satisfies Removal

/** The unique keys of purchases, and what the intake does about them. */
export const IDEMPOTENCY = {
  sql: 'DROP INDEX purchases_idempotency_key',
  code: [{ file: '/src/api/queue/intake-rows.ts', guard: 'idempotency', instead: '' }],
} satisfies Removal

/** The merging of lines of one resource, on both sides. */
export const MERGING = {
  code: [
    { file: '/src/shared/domain/resource.ts', guard: 'merge-items', instead: 'return [...items]' },
    { file: '/src/workers/decide/purchases.ts', guard: 'merge-units', instead: '' },
  ],
} satisfies Removal
