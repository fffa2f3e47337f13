/** Types of the API's answers, from the generated types of its contract. */
import type { operations } from '../../../client/generated/openapi.ts'

type Answer<Name extends keyof operations> = operations[Name] extends {
  responses: { 200: { content: { 'application/json': infer Body } } }
}
  ? Body
  : never

export type Snapshot = Answer<'getDashboard'>
export type History = Answer<'getPurchaseHistory'>
export type ResourceView = Answer<'getDashboardResource'>
export type Found = Answer<'searchDashboard'>['results'][number]
export type Figures = Answer<'getDashboardHistory'>
