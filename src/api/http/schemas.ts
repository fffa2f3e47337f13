/** Parts of request and response schemas, and the texts with which an error explains a pattern. */
import Type, { type TSchema } from 'typebox'
import { ID_PATTERN, REF_PATTERN, TYPE_PATTERN } from '../../shared/domain/resource.ts'

export const ACCOUNT_PATTERN = `^account:${ID_PATTERN}$`
export const CURRENCY_PATTERN = '^[A-Za-z]{3}$'
export const LEASE_ID_PATTERN = '^[A-Za-z0-9_-]+$'
export const TOKEN_PATTERN = '^[\\x21-\\x7e]+$'

/** Format of text that Postgres can store unchanged: no NUL and no lone surrogate. */
export const PLAIN_TEXT = 'plain-text'
export const isPlainText = (text: string) => !text.includes('\0') && !/\p{Surrogate}/u.test(text)

/**
 * Format of text that is compared or counted: a customer, a rider, a lock's owner. Two identifiers that look the same could
 * differ in invisible characters, so the format refuses the classes Cc (control), Cf (format, such as bidirectional controls),
 * Zl, Zp (line and paragraph separators) and Default_Ignorable_Code_Point (such as variation selectors), and white space at
 * either end. Spaces between other characters are allowed.
 */
export const IDENTIFIER = 'identifier'
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|^\p{White_Space}|\p{White_Space}$/u
export const isIdentifier = (text: string) => isPlainText(text) && !UNSEEN.test(text)
/** Keyword that makes the validator normalize a text to Unicode NFC, so that equal letters compare as equal. */
export const NFC = 'x-nfc'
export const IdentifierText = {
  maxLength: 200,
  format: IDENTIFIER,
  [NFC]: true,
  description: 'Compared in Unicode NFC; no control or invisible characters, no leading or trailing white space',
}
export const Identifier = (options: { description?: string } = {}) =>
  Type.String({ minLength: 1, ...IdentifierText, ...options })

export const Nullable = <T extends TSchema>(schema: T) =>
  Type.Unsafe<Type.Static<T> | null>({ ...schema, type: [(schema as unknown as { type: string }).type, 'null'] })

export const Ref = (examples: string[], description = '`type:id`') =>
  Type.String({ pattern: REF_PATTERN, maxLength: 161, description, examples })

export const Time = Type.String({ format: 'date-time' })

export const ResourceParams = Type.Object({
  type: Type.String({ pattern: `^${TYPE_PATTERN}$`, examples: ['product'] }),
  id: Type.String({ pattern: `^${ID_PATTERN}$`, examples: ['1'] }),
})

export const refOf = ({ type, id }: Type.Static<typeof ResourceParams>) => `${type}:${id}`

/** Largest stock: every count of units is an exact number. A worker refuses an amount above 2^53 - 1 when it decides. */
export const MAX_TOTAL = 1_000_000_000_000

// A pattern besides the format: Ajv's format also accepts `urn:uuid:…`, which Postgres refuses.
const UUID_PATTERN = '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'
export const IdParams = (example: string) =>
  Type.Object({ id: Type.String({ format: 'uuid', pattern: UUID_PATTERN, examples: [example] }) })

const A_UUID = 'a UUID, for example 01935f5e-0000-7000-8000-000000000001'
/** pattern or format of a schema → the text with which an error describes it: an example is clearer than the pattern */
export const WORDS: Readonly<Record<string, string>> = {
  [REF_PATTERN]: 'type:id, for example product:1',
  [`^${TYPE_PATTERN}$`]: 'at most 32 lower-case letters, digits, _ and -, beginning with a letter, for example product',
  [`^${ID_PATTERN}$`]:
    'at most 128 letters, digits and . _ ~ -, beginning with a letter or digit, for example 42 or summer-2027',
  [ACCOUNT_PATTERN]: 'an account as account:id, for example account:7',
  [CURRENCY_PATTERN]: 'a currency of three letters, for example USD',
  [LEASE_ID_PATTERN]: 'a lease_id: letters, digits, _ and -, for example bGVhc2U_MQ-',
  [TOKEN_PATTERN]: 'printable ASCII without spaces, for example tok_visa',
  [UUID_PATTERN]: A_UUID,
  uuid: A_UUID,
  'date-time': 'a time with its offset, for example 2030-06-01T15:00:00+02:00',
}

export const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
