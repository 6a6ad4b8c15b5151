namespace geodesic_fast {}
