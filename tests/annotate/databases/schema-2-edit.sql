BEGIN TRANSACTION;
CREATE TABLE item (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest TEXT NOT NULL,
           body TEXT NOT NULL, draft TEXT,
           draft_editor TEXT);
INSERT INTO "item" VALUES(1,'p0','16b34a250c3a13cd9bc1d8c036772ee3049206cf17b16662ff93a3bed5452c5d','{"prompt": "Question 0", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(2,'p1','113bf32b72e4ef8aef7f0b4389094c7c4a63d0925071afc24e140a1050088cf3','{"prompt": "Question 1", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(3,'p2','d876571432339a77f2c8d897be77f9ebaa3ee663fa05dabd9636c6dbaff8386a','{"prompt": "Question 2", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(4,'p3','855c3a661fea402fbee99bdcf67eb0fa925642a15bee61d17899e8ffd31a6893','{"prompt": "Question 3", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(5,'p4','2b9fd4bb6a0332e65b4c26669e2617135ff1881c300166c3704128edda6f56b2','{"prompt": "Question 4", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(6,'p5','130c5a0565460eaccdf13927a494110e2794d01837830dd2f62f8f48605a671e','{"prompt": "Question 5", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(7,'p6','cfef0ee2807e6359891587e3c4493eb52a5f7d019463f5444a691d46df2acd79','{"prompt": "Question 6", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(8,'p7','b06d26ee06437a0397afa7d383db2f75c1050c1757671b462085c32679384fde','{"prompt": "Question 7", "rejected": "The capital of Australia is Sydney, a town of some size and fame.", "chosen": "Canberra."}',NULL,NULL);
INSERT INTO "item" VALUES(9,'d0','2ff209a645529842119b31f14a13644fb7336c9f2e084e1653c7e42c7bfb10b9','{"prompt": "With a draft", "rejected": "The capital of Australia is Sydney, a town of some size and fame."}','The capital of Australia is Canberra, a town of some size and fame.','some-model');
CREATE TABLE link (hash TEXT PRIMARY KEY,
           person_id INTEGER NOT NULL REFERENCES person (id), created DOUBLE PRECISION NOT NULL);
INSERT INTO "link" VALUES('5645161335bdf9ed118d856b4bbfebf013ada77cb78d285feeaa26dc52c7523f',1,1.79606302124652957921e+09);
INSERT INTO "link" VALUES('cd572d219a94752b5f4c3c97e088988b10e815a8ebac694fd2c06383b5425369',2,1.79606302125415277478e+09);
INSERT INTO "link" VALUES('e83f14ba5ef187346591239d0a01ad3ff249584b31c00de3e3dd8272f6ccf3a7',3,1.79606302125939106938e+09);
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, admin SMALLINT NOT NULL, revoked DOUBLE PRECISION,
           created DOUBLE PRECISION NOT NULL);
INSERT INTO "person" VALUES(1,'admin',1,NULL,1796063021.2309);
INSERT INTO "person" VALUES(2,'ada',0,NULL,1.79606302123430871964e+09);
INSERT INTO "person" VALUES(3,'ben',0,NULL,1.79606302123817348484e+09);
INSERT INTO "person" VALUES(4,'eve',0,1.79606302138996601108e+09,1.79606302124217891689e+09);
CREATE TABLE project (id INTEGER PRIMARY KEY, uid TEXT NOT NULL, kind TEXT NOT NULL,
           guideline TEXT NOT NULL, max_ratio DOUBLE PRECISION NOT NULL, agreement DOUBLE PRECISION NOT NULL,
           lease DOUBLE PRECISION NOT NULL, created DOUBLE PRECISION NOT NULL);
INSERT INTO "project" VALUES(1,'d518982aafa0','edit','Change **little**.',0.6,0.5,1800.0,1.79606302121076393126e+09);
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(2);
CREATE TABLE slot (id INTEGER PRIMARY KEY, item_id INTEGER NOT NULL REFERENCES item (id), state SMALLINT NOT NULL,
           person_id INTEGER REFERENCES person (id), expires DOUBLE PRECISION);
INSERT INTO "slot" VALUES(1,1,2,2,NULL);
INSERT INTO "slot" VALUES(2,2,2,2,NULL);
INSERT INTO "slot" VALUES(3,2,2,3,NULL);
INSERT INTO "slot" VALUES(4,3,2,2,NULL);
INSERT INTO "slot" VALUES(5,3,2,3,NULL);
INSERT INTO "slot" VALUES(6,4,2,3,NULL);
INSERT INTO "slot" VALUES(7,5,1,2,1.79606482134194660182e+09);
INSERT INTO "slot" VALUES(8,5,2,3,NULL);
INSERT INTO "slot" VALUES(9,6,0,NULL,NULL);
INSERT INTO "slot" VALUES(10,6,0,NULL,NULL);
INSERT INTO "slot" VALUES(11,7,0,NULL,NULL);
INSERT INTO "slot" VALUES(12,8,0,NULL,NULL);
INSERT INTO "slot" VALUES(13,9,0,NULL,NULL);
CREATE TABLE visit (hash TEXT PRIMARY KEY,
           person_id INTEGER NOT NULL REFERENCES person (id), expires DOUBLE PRECISION NOT NULL);
INSERT INTO "visit" VALUES('39fab3a91c15ee9b1dc1afc0b2c784263d18b7ee6804502cc52b08339f627093',1,1.79865502125102448465e+09);
INSERT INTO "visit" VALUES('908634f19b46723b7d00bb21b90ba8ffe3214b4ef45963cd6df85d99a97548c9',2,1.79865502125828266143e+09);
INSERT INTO "visit" VALUES('e6be54445fff14c59353737ab446b4dd82abd614a3838d122d89c93d43db4135',3,1.79865502126942586897e+09);
CREATE TABLE work (id INTEGER PRIMARY KEY, item_id INTEGER NOT NULL REFERENCES item (id),
           person_id INTEGER NOT NULL REFERENCES person (id),
           slot_id INTEGER NOT NULL REFERENCES slot (id), state TEXT NOT NULL, swapped SMALLINT NOT NULL,
           started DOUBLE PRECISION NOT NULL, draft TEXT, draft_note TEXT, draft_at DOUBLE PRECISION, verdict TEXT,
           edited TEXT, note TEXT, ratio DOUBLE PRECISION, seconds DOUBLE PRECISION,
           submitted DOUBLE PRECISION, refused DOUBLE PRECISION, UNIQUE (item_id, person_id));
INSERT INTO "work" VALUES(1,1,2,1,'done',0,1.79606302127915835376e+09,NULL,NULL,NULL,'edited','The capital of Australia is Canberra, a town of some size and fame.','checked',7.6923076923076927347e-02,1.91898345947265625e-02,1.79606302129834818838e+09,NULL);
INSERT INTO "work" VALUES(2,2,2,2,'done',1,1.79606302130952429768e+09,NULL,NULL,NULL,'fine','The capital of Australia is Sydney, a town of some size and fame.',NULL,0.0,4.484653472900390625e-03,1.79606302131400895122e+09,NULL);
INSERT INTO "work" VALUES(3,3,2,4,'done',0,1.79606302131767082215e+09,NULL,NULL,NULL,'unfixable',NULL,'nonsense',NULL,2.5708675384521484375e-03,1.79606302132024168972e+09,NULL);
INSERT INTO "work" VALUES(4,4,2,6,'skipped',0,1.7960630213291590213e+09,NULL,'not my field',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "work" VALUES(5,5,2,7,'open',1,1.79606302133766674994e+09,'half an edit','a draft''s note',5.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "work" VALUES(6,2,3,3,'done',1,1.79606302134568023682e+09,NULL,NULL,NULL,'edited','The capital of Australia is Sydney, a town of some size and note.',NULL,7.6923076923076927347e-02,4.2874813079833984375e-03,1.79606302134996771808e+09,NULL);
INSERT INTO "work" VALUES(7,3,3,5,'done',0,1.79606302135370421413e+09,NULL,NULL,NULL,'edited','The capital of Australia is Sydney, a town of some size and note.',NULL,7.6923076923076927347e-02,8.2771778106689453125e-03,1.79606302136198139191e+09,NULL);
INSERT INTO "work" VALUES(8,4,3,6,'done',1,1.7960630213657031059e+09,NULL,NULL,NULL,'edited','The capital of Australia is Sydney, a town of some size and note.',NULL,7.6923076923076927347e-02,4.188060760498046875e-03,1.79606302136989116665e+09,NULL);
INSERT INTO "work" VALUES(9,5,3,8,'done',0,1.79606302137373089787e+09,NULL,NULL,NULL,'edited','The capital of Australia is Sydney, a town of some size and note.',NULL,7.6923076923076927347e-02,4.1563510894775390625e-03,1.79606302137788724892e+09,1.79606302138171792029e+09);
INSERT INTO "work" VALUES(10,6,4,9,'open',0,1.79606302138569211964e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE INDEX slot_state ON slot (state, id);
CREATE INDEX ix_slot_item_id ON slot (item_id);
CREATE INDEX ix_work_slot_id ON work (slot_id);
CREATE INDEX work_person ON work (person_id, state, submitted);
CREATE INDEX work_submitted ON work (submitted);
COMMIT;
