-- The database of all SQL tests.
CREATE EXTENSION repart;
SELECT repart_version();
