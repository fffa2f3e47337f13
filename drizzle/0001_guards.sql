-- What drizzle-kit cannot say. These hold when every lock is wrong: code cannot forget them.

CREATE EXTENSION IF NOT EXISTS btree_gist;
--> statement-breakpoint
-- Never double-book: no two active bookings of one resource overlap.
ALTER TABLE bookings ADD CONSTRAINT bookings_no_overlap
  EXCLUDE USING gist (resource WITH =, during WITH &&) WHERE (status IN ('requested', 'accepted'));
--> statement-breakpoint
-- Hot rows are updated twice a batch: room on the page keeps those updates off the indexes (HOT).
ALTER TABLE resources SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
--> statement-breakpoint
-- Every purchase is updated once or twice soon after its insert, and a line is read through its partial index: vacuum
-- by count, not by share, so that dead entries of settled rows do not pile up at the front of a long line.
ALTER TABLE purchases SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
--> statement-breakpoint
CREATE FUNCTION holdfast_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%: % refused', TG_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
--> statement-breakpoint
-- Terminal statuses never change; confirmed changes to refunded alone. WHEN keeps the function call off the hot path.
CREATE TRIGGER purchases_terminal BEFORE UPDATE OF status ON purchases FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND (
    OLD.status IN ('rejected', 'failed', 'cancelled', 'expired', 'refunded')
    OR (OLD.status = 'confirmed' AND NEW.status <> 'refunded')
    OR NEW.status = 'queued'))
  EXECUTE FUNCTION holdfast_refuse();
--> statement-breakpoint
CREATE TRIGGER bookings_terminal BEFORE UPDATE OF status ON bookings FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND (
    OLD.status IN ('completed', 'rejected', 'declined', 'cancelled', 'expired')
    OR NEW.status = 'queued'))
  EXECUTE FUNCTION holdfast_refuse();
--> statement-breakpoint
-- A fence only rises: a superseded lease holder cannot lower it to let itself in again.
CREATE TRIGGER resources_fence BEFORE UPDATE OF fence ON resources FOR EACH ROW
  WHEN (NEW.fence < OLD.fence)
  EXECUTE FUNCTION holdfast_refuse();
--> statement-breakpoint
-- The ledger is append-only.
CREATE TRIGGER movements_append_only BEFORE UPDATE OR DELETE ON movements FOR EACH ROW
  EXECUTE FUNCTION holdfast_refuse();
